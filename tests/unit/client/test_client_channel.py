"""Where an address leads, and what a client sends along."""

import asyncio
import contextlib
import json
import multiprocessing
import socket
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from clipseek import AsyncClient, Client, Tls, TlsError, UnavailableError
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
        ("localhost", "grpcs://HOST:PORT; not 'localhost'"),
        ("grpcs://search.example.org", "is HOST:PORT"),
        ("localhost:", "is HOST:PORT"),
        (":50051", "is HOST:PORT"),
        ("localhost:grpc", "is HOST:PORT"),
        ("localhost:99999", "is HOST:PORT"),
        ("localhost:0", "is HOST:PORT"),
        ("grpc://localhost:50051/path", "is HOST:PORT"),
        (" localhost:50051", "is HOST:PORT"),
        ("::1:50051", "is HOST:PORT"),
        ("one:1,two:2", "'one:1' is not IP:PORT"),
        ("10.0.0.1:1,[::1]:1", "all be IPv4 or all IPv6"),
        ("10.0.0.1:x,10.0.0.2:1", "has no port"),
        ("10.0.0.1:0,10.0.0.2:1", "has no port"),
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


@pytest.mark.parametrize("several", [False, True])
def test_a_server_without_tls_is_told_from_one_that_is_not_trusted(
    connect: Any, server: SmallServer, several: bool
) -> None:
    address = f"{server.address},{server.address}" if several else server.address
    for client in (connect(f"grpcs://{address}"), connect(address, tls=Tls())):
        with pytest.raises(TlsError, match="has no TLS; use grpc://") as caught:
            client.insert(b"picture")
        assert not caught.value.may_pass


def test_a_handshake_that_fails_for_another_reason(connect: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(5)
                        connection.sendall(b"\x15\x03\x03\x00\x02\x02\x28")  # TLS' alert "handshake_failure"
                        connection.recv(10_000)

        refusing = threading.Thread(target=refuse, daemon=True)
        refusing.start()
        address = f"grpcs://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(UnavailableError, match=r"HANDSHAKE_FAILURE.*or, if it has no TLS, use grpc://") as caught:
            connect(address).insert(b"picture")
        assert "certificate" in caught.value.message
        listener.shutdown(socket.SHUT_RDWR)
    refusing.join(10)


def test_an_asynchronous_client_in_another_event_loop_says_so(server: SmallServer) -> None:
    calls: list[Callable[[AsyncClient], Awaitable[Any]]] = [
        lambda client: client.info(),
        lambda client: client.health(),
        lambda client: client.embed_text("a cat"),
        lambda client: anext(client.insert_stream([b"picture"])),
        lambda client: anext(client.check()),
        lambda client: client.download("a"),
    ]

    async def used() -> AsyncClient:
        client = AsyncClient(server.address)
        await client.embed_text("a cat")
        return client

    async def call(client: AsyncClient, number: int) -> None:
        await calls[number](client)

    with asyncio.Runner() as living, asyncio.Runner() as ended:
        clients = living.run(used()), ended.run(used())
        ended.close()
        for client in clients:
            for number in range(len(calls)):
                with pytest.raises(RuntimeError, match="made in another event loop; make one in each"):
                    asyncio.run(call(client, number))
            asyncio.run(client.close())


def test_an_asynchronous_client_wants_an_event_loop(server: SmallServer) -> None:
    with pytest.raises(RuntimeError, match="no event loop runs here"):
        AsyncClient(server.address)


def test_an_asynchronous_client_from_before_a_fork_says_so(server: SmallServer) -> None:
    async def used() -> AsyncClient:
        client = AsyncClient(server.address)
        await client.info()
        return client

    with asyncio.Runner() as runner:
        client = runner.run(used())
        context = multiprocessing.get_context("fork")
        results = context.SimpleQueue()

        def child() -> None:
            try:
                asyncio.run(client.info())
            except RuntimeError as error:
                results.put(str(error))

        process = context.Process(target=child)
        process.start()
        process.join(30)
        assert process.exitcode == 0
        assert "start processes with spawn or forkserver" in results.get()
        assert runner.run(client.info()).version
        runner.run(client.close())


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
