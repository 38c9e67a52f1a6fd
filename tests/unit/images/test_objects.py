"""The image store in a bucket, when things go wrong: a real S3-compatible server, and a link that can be damaged."""

import asyncio
import json
import time

import boto3
import pytest
import trustme
from structlog.testing import capture_logs

import object_store_server
from clipseek_server.errors import ImageStoreUnavailable, StartupError
from clipseek_server.images.objects import ObjectStore
from object_store_server import BUCKET, UNAVAILABLE, ObjectStoreServer
from servers import free_port

TIMEOUT = 2.0
URL = f"s3://{BUCKET}"
SLACK = 5.0
"""Seconds beyond the timeout that a busy machine may take."""


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    for name, value in object_store_server.CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def server():
    with object_store_server.running() as running:
        yield running


@pytest.fixture
def link(server):
    with object_store_server.linked(server.port) as link:
        yield link


def connected(endpoint, url=URL, **options):
    return ObjectStore(url, endpoint=endpoint, **{"timeout": TIMEOUT, **options})


@pytest.fixture
def store(link):
    return connected(link.endpoint)


def everything(store, key="u1/a/b"):
    """A call of each method."""

    async def chunks():
        return [chunk async for chunk in store.chunks(key, 4)]

    async def listed():
        return [blob async for blob in store.list()]

    return [store.put(key, b"x"), store.get(key), store.size(key), chunks(), listed(), store.delete([key])]


async def assert_unavailable(store, match):
    """Every method says so, within the timeout; returns what was said."""
    began = time.monotonic()
    errors = await asyncio.gather(*everything(store), return_exceptions=True)
    # Those that ask twice may take twice as long.
    assert time.monotonic() - began < 2 * TIMEOUT + SLACK
    assert [error for error in errors if not isinstance(error, ImageStoreUnavailable)] == []
    for error in errors:
        assert match in error.message
        assert error.retry_after
        assert "127.0.0.1" not in error.message
        assert error.__cause__ is error.__context__ is None  # no text of the store's, no frame that holds a picture


async def test_a_server_that_is_not_there(store, server):
    away = connected(f"http://127.0.0.1:{free_port()}")
    with capture_logs() as logs:
        await assert_unavailable(away, "does not answer")
        await away.check()  # no reason not to start
    assert [line["log_level"] for line in logs] == ["warning", "warning"]
    assert logs[0]["cause"].startswith("Generic S3 error: Error performing")
    assert logs[0]["image_store"] == URL


async def test_a_server_that_is_silent(store, link):
    link.silent.set()
    await assert_unavailable(store, "does not answer")
    link.silent.clear()
    with capture_logs() as logs:
        await store.put("u1/silent/1", b"x")
        assert await store.get("u1/silent/1") == b"x"
    assert [line["event"] for line in logs] == ["the image store answers again"]


async def test_a_server_that_goes_away_and_comes_back():
    server = ObjectStoreServer()
    try:
        server.start()
        server.make_bucket()
        store = connected(server.endpoint)
        await store.put("u1/a/1", b"x")
        server.stop()
        await assert_unavailable(store, "does not answer")
        server.start()
        server.make_bucket()
        await store.put("u1/a/2", b"x")
        assert [blob.key async for blob in store.list()] == ["u1/a/2"]
    finally:
        server.stop()


@pytest.mark.parametrize("answer", [b"", UNAVAILABLE], ids=["broken", "503"])
async def test_a_write_whose_answer_is_lost_is_known_again(store, link, answer):
    """It has been written; what is tried again finds its own bytes and does not say that the key is taken."""
    key = f"u1/lost/{len(answer)}"
    link.instead = [answer]
    await store.put(key, b"some bytes")
    assert link.instead == []
    assert await store.get(key) == b"some bytes"
    with pytest.raises(FileExistsError):
        await store.put(key, b"some bytes")


async def test_a_lost_answer_does_not_hide_that_a_key_is_taken(store, link):
    await store.put("u1/taken/1", b"first")
    link.instead = [b""]
    with pytest.raises(FileExistsError):
        await store.put("u1/taken/1", b"first")


async def test_reads_are_tried_again(store, link):
    await store.put("u1/read/1", b"some bytes")
    for call in (store.get, store.size):
        link.instead = [b"", UNAVAILABLE]
        assert await call("u1/read/1") in (b"some bytes", 10)
        assert link.instead == []


async def test_a_server_that_only_fails(store, link):
    link.instead = [UNAVAILABLE] * 1000
    await assert_unavailable(store, "does not answer")


async def test_many_that_wait_give_up_in_time(store, link):
    link.silent.set()
    began = time.monotonic()
    errors = await asyncio.gather(*(store.get(f"u1/{n}/x") for n in range(300)), return_exceptions=True)
    assert time.monotonic() - began < TIMEOUT + SLACK
    assert {type(error) for error in errors} == {ImageStoreUnavailable}


async def test_a_bucket_that_does_not_exist(server):
    store = connected(server.endpoint, "s3://elsewhere/x")
    for call in (store.put("u1/a/b", b"x"), store.get("u1/a/b"), store.size("u1/a/b"), store.delete(["u1/a/b"])):
        with pytest.raises(ImageStoreUnavailable, match="bucket does not exist; make it"):
            await call
    with pytest.raises(ImageStoreUnavailable, match="bucket does not exist"):
        await anext(store.list())
    with pytest.raises(StartupError, match=r"bucket does not exist.*s3://elsewhere/x"):
        await store.check()


async def test_a_bucket_in_another_region(store, link):
    """As Amazon S3 documents its answer; moto does not mind the region."""
    body = b"<Error><Code>PermanentRedirect</Code><Endpoint>pictures.s3.eu-central-1.amazonaws.com</Endpoint></Error>"
    lines = [
        b"HTTP/1.1 301 Moved Permanently",
        b"x-amz-bucket-region: eu-central-1",
        b"Content-Type: application/xml",
        b"Content-Length: %d" % len(body),
        b"Connection: close",
    ]
    link.instead = [b"\r\n".join([*lines, b"", body])] * 1000
    await assert_unavailable(store, "in another region; correct the server's s3_region")
    with pytest.raises(StartupError, match=r"in another region.*s3://pictures"):
        await store.check()


async def test_a_redirect_that_can_be_followed_is_no_refusal(store, link, server):
    link.instead = [
        b"HTTP/1.1 307 Temporary Redirect\r\nContent-Length: 0\r\nConnection: close\r\n"
        b"Location: %s/%s?list-type=2\r\n\r\n" % (server.endpoint.encode(), BUCKET.encode())
    ]
    with capture_logs() as logs:
        await store.check()
    assert (link.instead, logs) == ([], [])


@pytest.fixture
def guarded(monkeypatch):
    """A server that checks signatures and permissions; yields it and the keys of somebody who may only read."""
    server = ObjectStoreServer()
    server.start()
    try:
        options = {"endpoint_url": server.endpoint, "region_name": "us-east-1"}
        server.make_bucket()
        iam = boto3.client("iam", **options)
        iam.create_user(UserName="reader")
        allowed = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        iam.put_user_policy(UserName="reader", PolicyName="read", PolicyDocument=policy)
        keys = iam.create_access_key(UserName="reader")["AccessKey"]
        server.require_credentials()
        yield server, keys
    finally:
        server.stop()


async def test_credentials(guarded, monkeypatch):
    server, keys = guarded
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "secret-session")
    wrong = connected(server.endpoint)
    with capture_logs() as logs:
        await assert_unavailable(wrong, "refuses this server; check its access key, secret and region")
        with pytest.raises(StartupError, match="refuses this server"):
            await wrong.check()
    assert len(logs) == 1
    assert "status code: 40" in logs[0]["cause"]
    for secret in ("wrong-secret", "secret-session", keys["AccessKeyId"]):
        assert secret not in str(logs)

    monkeypatch.delenv("AWS_SESSION_TOKEN")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys["SecretAccessKey"])
    reader = connected(server.endpoint)
    await reader.check()
    assert await reader.get("u1/a/b") is None
    with pytest.raises(ImageStoreUnavailable, match="allow it to read, write, list and delete"):
        await reader.put("u1/a/b", b"x")


async def test_no_credentials_at_all(server, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    # A machine has its role from here; this one has none.
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ImageStoreUnavailable, match="no credentials; set AWS_ACCESS_KEY_ID"):
        await connected(server.endpoint).put("u1/a/b", b"x")


async def test_an_encrypted_connection(tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    server = ObjectStoreServer("-s", "-c", str(tmp_path / "cert.pem"), "-k", str(tmp_path / "key.pem"), scheme="https")
    try:
        server.start()
        server.make_bucket(ca=tmp_path / "ca.pem")
        store = connected(server.endpoint, tls_ca=tmp_path / "ca.pem")
        await store.put("u1/a/b", b"x")
        assert await store.get("u1/a/b") == b"x"
        with pytest.raises(ImageStoreUnavailable, match="does not answer"):
            await connected(server.endpoint).get("u1/a/b")
    finally:
        server.stop()


@pytest.mark.parametrize("text", ["", "no certificate"])
def test_an_authority_that_is_none(tmp_path, text):
    (tmp_path / "ca.pem").write_text(text)
    with pytest.raises(StartupError, match="cannot be set up"):
        ObjectStore(URL, tls_ca=tmp_path / "ca.pem")
