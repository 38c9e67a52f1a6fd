import pytest

from clipseek.ui.hosts import is_known, is_name, is_named

NAMED = ["Pictures.example.org", "*.example.net"]


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:7860",
        "127.0.0.1:7860",
        "[::1]",
        "[2001:db8::1]:7860",
        "10.1.2.3",
        "pictures.example.org",
        "PICTURES.example.org:443",
        "a.example.net",
        "b.a.example.net:80",
    ],
)
def test_addresses_localhost_and_given_names_are_known(host):
    assert is_known(host, NAMED)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "www.pictures.example.org",
        "example.net",
        "evilexample.net",
        "999.1.1.1",
        "[::1].evil.example",
    ],
)
def test_others_are_not(host):
    assert not is_known(host, NAMED)
    assert not is_known(host, [])


def test_an_address_is_known_but_not_named():
    assert not is_named("127.0.0.1", NAMED)


@pytest.mark.parametrize("name", ["pictures.example.org", "*.example.org", "host_1", "192.0.2.7", "2001:db8::1"])
def test_names(name):
    assert is_name(name)


@pytest.mark.parametrize("name", ["", "*", "a*b", "http://a.example", "a.example:80", "a.example/", "a b", ".a"])
def test_no_names(name):
    assert not is_name(name)
