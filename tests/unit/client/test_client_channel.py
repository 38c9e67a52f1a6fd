"""Where an address leads, and what a client sends along."""

import json
import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from clipseek import Client, Tls
from clipseek.channel import Endpoint, channel_options, credentials, endpoint, token_metadata
from small_server import SmallServer


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("search.example.org:50051", Endpoint("search.example.org:50051", None)),
        ("grpc://search.example.org:50051", Endpoint("search.example.org:50051", False)),
        ("grpcs://search.example.org:443/", Endpoint("search.example.org:443", True)),
        ("grpc://[::1]:50051", Endpoint("[::1]:50051", False)),
        ("unix:/run/clipseek.sock", Endpoint("unix:/run/clipseek.sock", None)),
        ("unix:///run/clipseek.sock", Endpoint("unix:///run/clipseek.sock", None)),
        ("dns:///search.example.org:50051", Endpoint("dns:///search.example.org:50051", None)),
        ("10.0.0.1:1, 10.0.0.2:1", Endpoint("ipv4:10.0.0.1:1,10.0.0.2:1", None)),
        ("grpcs://[::1]:1,[::2]:2", Endpoint("ipv6:[::1]:1,[::2]:2", True)),
        ("ipv4:10.0.0.1:1,10.0.0.2:1", Endpoint("ipv4:10.0.0.1:1,10.0.0.2:1", None)),
    ],
)
def test_addresses(address: str, found: Endpoint) -> None:
    assert endpoint(address) == found


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("", "empty"),
        ("grpc://", "empty"),
        ("http://search.example.org", "grpcs://HOST:PORT"),
        ("one:1,two:2", "'one:1' is not IP:PORT"),
        ("10.0.0.1:1,[::1]:1", "all be IPv4 or all IPv6"),
        ("10.0.0.1:x,10.0.0.2:1", "has no port"),
    ],
)
def test_addresses_that_are_none(address: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        endpoint(address)


def test_tls_follows_the_address() -> None:
    assert credentials(endpoint("grpc://a:1"), None) is None
    assert credentials(endpoint("a:1"), None) is None
    assert credentials(endpoint("grpcs://a:1"), None) is not None
    assert credentials(endpoint("a:1"), Tls()) is not None
    with pytest.raises(ValueError, match="grpcs://"):
        credentials(endpoint("grpc://a:1"), Tls())


def test_tls_needs_its_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="go together"):
        Tls(certificate=b"certificate").credentials()
    with pytest.raises(FileNotFoundError):
        Tls(ca=tmp_path / "nothing.pem").credentials()


def test_no_secret_is_printed() -> None:
    assert "key" not in repr(Tls(key=b"key"))
    with Client("127.0.0.1:1", token="secret") as client:
        assert "secret" not in repr(client)


@pytest.mark.parametrize("token", ["with space", "line\n", "caf\xe9"])
def test_tokens_that_cannot_be_sent(token: str) -> None:
    with pytest.raises(ValueError, match="ASCII"):
        token_metadata(token)


def test_reads_are_repeated_and_writes_are_not() -> None:
    config = json.loads(str(dict(channel_options(None))["grpc.service_config"]))
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    searches = {"SearchByText", "SearchByImage", "Search"}
    records = {"GetImage", "BatchGetImages", "ListImages", "DownloadImage", "GetCollection", "ListCollections"}
    reads = searches | records | {"EmbedText", "EmbedImage", "CheckCollection", "GetServerInfo"}
    assert {name["method"] for each in config["methodConfig"] for name in each["name"]} == reads


def test_calls_are_spread_over_all_addresses(connect: Any, servers: list[SmallServer]) -> None:
    client = connect(",".join(server.address for server in servers))
    # A channel uses what it is connected to; how long that takes is up to the machine.
    for _ in range(1000):
        client.info()
        if all(server.asked("GetServerInfo") for server in servers):
            break
    assert all(server.asked("GetServerInfo") for server in servers)


def test_threads_share_a_client(client: Any, server: SmallServer) -> None:
    barrier = threading.Barrier(8)

    def insert(number: int) -> str:
        barrier.wait()
        return str(client.insert(b"picture", image_id=f"id-{number}").image_id)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(insert, range(8))) == [f"id-{number}" for number in range(8)]


def test_a_client_from_before_a_fork_says_so_and_a_new_one_works(server: SmallServer) -> None:
    with Client(server.address) as client:
        client.info()
        context = multiprocessing.get_context("fork")
        results = context.SimpleQueue()

        def child() -> None:
            try:
                client.info()
            except RuntimeError as error:
                results.put(str(error))
            with Client(server.address) as own:
                results.put(own.info().version)

        process = context.Process(target=child)
        process.start()
        process.join(30)
        assert process.exitcode == 0
        assert "make one in each process" in results.get()
        assert results.get()
