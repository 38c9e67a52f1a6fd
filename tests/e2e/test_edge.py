"""The edge: request ids, reflection, health, limits, slow and vanishing clients, starting and stopping."""

import base64
import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from structlog.testing import capture_logs

from clipseek import BulkResult, Client, ClipseekError, InvalidArgumentError, UnavailableError
from clipseek.v1 import image_pb2, search_service_pb2
from clipseek.v1.info_service_pb2 import GetServerInfoRequest
from clipseek.v1.info_service_pb2_grpc import InfoServiceStub
from clipseek.v1.search_service_pb2_grpc import SearchServiceStub
from clipseek_server.config import Settings
from clipseek_server.errors import NotServing, StartupError
from clipseek_server.rpc.server import SERVICES
from open_server import OpenServer
from pictures import large_picture, picture
from raw_calls import call_raw, refused, stream_raw
from servers import ServerProcess, ServerThread

MIB = 1024 * 1024
EVERYTHING = ("", *(service.full_name for service in SERVICES.values()))


@pytest.fixture
def settings(bundle, tmp_path) -> Settings:
    return Settings(listen="127.0.0.1:0", bundles=[bundle], data_dir=tmp_path / "data")


def smaller(settings: Settings, **changes: object) -> Settings:
    return Settings.model_validate(settings.model_dump() | changes)


@pytest.fixture
def open_server(settings) -> Iterator[OpenServer]:
    with OpenServer(smaller(settings, vision_batch=1, text_batch=1, message_timeout=0.5)) as running:
        yield running


@pytest.fixture
def open_client(open_server) -> Iterator[Client]:
    with Client(open_server.address) as connected:
        yield connected


@pytest.fixture
def channel(server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as connected:
        yield connected


# Request ids.


@pytest.mark.parametrize(
    "sent", ["abc", "A1._:/+=-", "a" * 128, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"]
)
def test_a_request_id_comes_back(channel, client, sent):
    call = InfoServiceStub(channel).GetServerInfo.with_call
    _, answered = call(GetServerInfoRequest(), metadata=(("x-request-id", sent),))
    assert dict(answered.trailing_metadata())["x-request-id"] == sent
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as caught:
        SearchServiceStub(channel).SearchByText(
            search_service_pb2.SearchByTextRequest(), metadata=(("x-request-id", sent),)
        )
    assert caught.refusal.request_id == sent
    client.info(request_id=sent)


@pytest.mark.parametrize("sent", [None, "", "a" * 129, 'a"b', "a b", "{}", "a;b"])
def test_a_bad_request_id_is_replaced(channel, client, sent):
    metadata = (("x-request-id", sent),) if sent is not None else ()
    _, answered = InfoServiceStub(channel).GetServerInfo.with_call(GetServerInfoRequest(), metadata=metadata)
    assert re.fullmatch("[0-9a-f]{32}", dict(answered.trailing_metadata())["x-request-id"])
    if sent:  # the client sends none that would be
        with pytest.raises(ValueError, match="a request id is made of"):
            client.info(request_id=sent)


def test_streams_have_request_ids_too(channel, client, collection):
    client.insert(picture(1), image_id="a", collection=collection)
    request = search_service_pb2.DownloadImageRequest(collection=collection, image_id="a").SerializeToString()
    config = search_service_pb2.BulkInsertRequest(config=search_service_pb2.BulkInsertConfig()).SerializeToString()
    for method, message in (("DownloadImage", request), ("BulkInsert", config)):
        call = stream_raw(channel, f"SearchService/{method}", [message], metadata=(("x-request-id", "abc"),))
        list(call)
        assert dict(call.initial_metadata())["x-request-id"] == "abc"
        assert dict(call.trailing_metadata())["x-request-id"] == "abc"


def test_reads_are_repeated_while_the_server_is_away(open_server, open_client, monkeypatch):
    """Only an error that is all that came can be: nothing may be sent before it."""
    open_client.insert(picture(1))
    run, failures = open_server.model._text_tower._run, iter([NotServing("away"), NotServing("still away")])

    def fail_twice(texts: list[str]) -> object:
        for failure in failures:
            raise failure
        return run(texts)

    monkeypatch.setattr(open_server.model._text_tower, "_run", fail_twice)
    assert open_client.search_text("a cat").hits


# Reflection, health, other clients.


def test_reflection_knows_every_service(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) == {
        *(service.full_name for service in SERVICES.values()),
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    for name, service in SERVICES.items():
        file = database.FindFileContainingSymbol(f"clipseek.v1.{name}")
        [described] = [each for each in file.service if each.name == name]
        assert {method.name for method in described.method} == {method.name for method in service.methods}


def test_every_service_has_a_health_entry(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for service in EVERYTHING:
        answer = health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="no.such.Service"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_health_never_waits_behind_work(open_server, open_client):
    open_client.insert(picture(1))
    with ThreadPoolExecutor(64) as pool, open_server.stuck("text") as begun:
        searches = [pool.submit(open_client.search_text, "a cat") for _ in range(64)]
        assert begun.wait(30)
        assert open_client.health() == "serving"
    assert all(search.result().hits for search in searches)


GRPCURL = Path(sys.executable).with_name("grpcurl")


@pytest.mark.skipif(not GRPCURL.exists(), reason="grpcurl is not installed")
def test_grpcurl(server, collection):
    def grpcurl(*arguments: str, data: str = "") -> str:
        done = subprocess.run(
            [GRPCURL, "-plaintext", *(["-d", "@"] if data else []), server.address, *arguments],
            input=data,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "clipseek.v1.SearchService" in grpcurl("list").split()
    assert "rpc Insert ( .clipseek.v1.InsertRequest )" in grpcurl("describe", "clipseek.v1.SearchService")
    data = base64.b64encode(picture(1)).decode()
    insert = json.dumps({"collection": collection, "image_data": data, "image_id": "a", "metadata": {"n": 1}})
    inserted = json.loads(grpcurl("clipseek.v1.SearchService/Insert", data=insert))
    assert (inserted["outcome"], inserted["image"]["metadata"]) == ("INSERT_OUTCOME_CREATED", {"n": 1})
    search = json.dumps({"collection": collection, "text": "a cat", "options": {"top_k": 3}})
    found = json.loads(grpcurl("clipseek.v1.SearchService/SearchByText", data=search))
    assert [hit["image"]["image_id"] for hit in found["hits"]] == ["a"]
    assert json.loads(grpcurl("grpc.health.v1.Health/Check")) == {"status": "SERVING"}


def test_what_a_newer_client_sends(channel, collection):
    """Fields that this server does not know are passed over; values of enums are refused: they change the meaning."""
    message = search_service_pb2.InsertRequest(
        collection=collection, image_data=picture(1), image_id="a", on_exists=image_pb2.ON_EXISTS_KEEP
    ).SerializeToString()
    unknown = b"\xca\x3e\x03new" + b"\xd0\x3e\x07"  # fields 1001 and 1002
    call_raw(channel, "SearchService/Insert", [message + unknown])
    for request in (
        search_service_pb2.InsertRequest(collection=collection, image_data=picture(1), on_exists=77),
        search_service_pb2.InsertRequest(collection=collection, image_data=picture(1), on_exists=-1),
    ):
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as caught:
            call_raw(channel, "SearchService/Insert", [request.SerializeToString()])
        assert caught.refusal.field == "on_exists"


# Limits of size, and memory.


def test_a_message_that_is_too_large(open_server, open_client):
    data = b"\xff\xd8" + bytes(open_server.settings.max_message_bytes)
    with pytest.raises(InvalidArgumentError, match="at most"):
        open_client.insert(data)
    with grpc.insecure_channel(open_server.address) as connected, pytest.raises(grpc.RpcError) as caught:
        call_raw(connected, "SearchService/GetImage", [data])
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    open_server.at_rest()


def test_many_large_uploads_stay_within_the_bytes_in_flight(bundle, tmp_path):
    # A message is there up to three times for a moment: as it came, as protobuf's and as Python's. What waits has its
    # windows on the connection, and malloc keeps some of what was freed. All 32 at once would be 2 GB.
    budget, factor = 128, 6
    with ServerProcess(
        tmp_path / "data",
        bundle,
        CLIPSEEK_MAX_BYTES_IN_FLIGHT=str(budget * MIB),
        CLIPSEEK_MAX_MESSAGE_BYTES=str(21 * MIB),
        CLIPSEEK_MAX_IMAGE_BYTES=str(21 * MIB - 4096),
        CLIPSEEK_MAX_BULK_STREAMS="3",
    ) as running:
        pid = running._process.pid  # type: ignore[union-attr]
        with grpc.insecure_channel(running.address, [("grpc.max_send_message_length", -1)]) as connected:
            InfoServiceStub(connected).GetServerInfo(GetServerInfoRequest())
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
            before = memory(pid, "VmHWM")
            # The budget lets six in; the others wait for a second, and are sent away then or served.
            request = search_service_pb2.SearchByImageRequest(image_data=b"\xff\xd8" + bytes(20 * MIB))
            calls = [SearchServiceStub(connected).SearchByImage.future(request, timeout=60) for _ in range(32)]
            codes = {call.code() for call in calls}
            peak = memory(pid, "VmHWM") - before
        assert codes <= {
            grpc.StatusCode.NOT_FOUND,
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
        }
        assert peak < factor * budget, f"{peak} MiB"
        with Client(running.address) as client:
            assert client.insert(picture(1)).outcome == "created"
        assert running.stop() == 0


def raise_all(results: Iterator[BulkResult]) -> None:
    for result in results:
        if result.error is not None:
            raise result.error


@pytest.mark.parametrize(
    "fail",
    [
        lambda client: client.insert(b"no picture"),
        lambda client: client.search_image(b"no picture"),
        lambda client: client.insert(picture(2), image_id="a", on_exists="fail"),
        lambda client: client.search_image(picture(1), collection="nowhere"),
        lambda client: client.search_text(" "),
        lambda client: client.embed_image(b"no picture"),
        lambda client: raise_all(client.insert_stream([b"no picture"])),
    ],
)
def test_nothing_of_a_failed_call_is_kept(open_server, open_client, fail):
    """A circle of an error, its traceback, and futures would keep the picture until a garbage collection."""
    open_client.insert(picture(1), image_id="a")

    async def garbage() -> list[str]:
        gc.collect()
        found, gc.garbage[:] = list(gc.garbage), []
        return [each.f_code.co_qualname for each in found if isinstance(each, types.FrameType)]

    for _ in range(2):  # the first time fills caches
        gc.collect()
        gc.disable()
        try:
            with pytest.raises(ClipseekError):
                fail(open_client)
            open_server.at_rest()
            gc.set_debug(gc.DEBUG_SAVEALL)
            frames = open_server.run(garbage())
        finally:
            gc.set_debug(0)
            gc.enable()
    assert not [
        name for name in frames if name.startswith(("Inserts.", "Searches.", "decode_picture", "_open", "Batcher."))
    ]


def memory(pid: int, name: str) -> int:
    """In MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+) kB", status).group(1)) // 1024  # type: ignore[union-attr]


# Slow clients and those that vanish.


def silence(until: threading.Event) -> Iterator[bytes]:
    until.wait(30)
    yield from ()


def test_a_slow_sender_is_sent_away_and_holds_up_nobody_else(open_server, open_client):
    open_client.insert(picture(1))
    silent = threading.Event()
    with grpc.insecure_channel(open_server.address) as connected, ThreadPoolExecutor(16) as pool:
        slow = [pool.submit(call_raw, connected, "SearchService/Insert", silence(silent)) for _ in range(16)]
        open_server.until(lambda: open_server.pictures.free == 0)
        assert open_client.search_text("a cat").hits
        for each in slow:
            with refused(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED") as caught:
                each.result()
            assert "0.5 seconds" in caught.refusal.message
        silent.set()
    open_server.at_rest()
    assert open_client.insert(picture(2)).outcome == "created"


def test_a_sender_that_never_says_that_it_is_done(open_server):
    silent = threading.Event()

    def half() -> Iterator[bytes]:
        yield search_service_pb2.InsertRequest(image_data=picture(1)).SerializeToString()
        yield from silence(silent)

    with grpc.insecure_channel(open_server.address) as connected:
        with refused(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"):
            call_raw(connected, "SearchService/Insert", half())
        silent.set()
    open_server.at_rest()


def test_a_client_that_goes_leaves_nothing_behind(open_server, open_client):
    open_client.insert(picture(1))
    with grpc.insecure_channel(open_server.address) as connected:
        search = SearchServiceStub(connected)
        with open_server.stuck("text") as begun, open_server.stuck("vision") as begun_too:
            calls = [
                *(
                    search.SearchByText.future(search_service_pb2.SearchByTextRequest(text=f"a cat {number}"))
                    for number in range(3)
                ),
                *(
                    search.Insert.future(search_service_pb2.InsertRequest(image_data=picture(10 + number)))
                    for number in range(3)
                ),
                # The same picture again waits for the lock of its id.
                search.Insert.future(search_service_pb2.InsertRequest(image_data=picture(10))),
            ]
            assert begun.wait(30)
            assert begun_too.wait(30)
            open_server.until(lambda: open_server.text_tower.waiting == 2 and open_server.vision_tower.waiting == 2)
            for call in calls:
                assert call.cancel()
            # While the towers still hold their batches, nothing else does.
            open_server.until(
                lambda: (
                    open_server.pictures.free == open_server.settings.max_bytes_in_flight
                    and not open_server.collections.locks._locks
                    and not open_server.collections.gates._writers
                )
            )
    open_server.at_rest()
    assert len(list(open_client.list())) == 1
    assert open_client.insert(picture(10)).outcome == "created"


def test_a_client_that_goes_in_the_middle_of_a_download(open_server, open_client, monkeypatch):
    data = large_picture(16 * MIB)  # larger than what the connection takes ahead
    assert open_client.insert(data, image_id="a").outcome == "created"
    [blob] = [
        path
        for path in (open_server.settings.data_dir / "images").rglob("*")
        if path.is_file() and path.read_bytes() == data
    ]
    with grpc.insecure_channel(open_server.address) as connected:
        call = SearchServiceStub(connected).DownloadImage(search_service_pb2.DownloadImageRequest(image_id="a"))
        assert next(call).HasField("header")
        open_server.until(lambda: is_open(blob))
        call.cancel()
        open_server.until(lambda: not is_open(blob))
    open_server.at_rest()


def is_open(path: Path) -> bool:
    """Whether this process has a file open."""
    found = False
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found = found or descriptor.readlink() == path
        except FileNotFoundError:
            continue
    return found


# Stopping.


def test_sigterm_lets_calls_finish(bundle, tmp_path):
    pictures = [picture(seed, size=(400, 400)) for seed in range(12)]
    with ServerProcess(tmp_path / "data", bundle) as running:
        with grpc.insecure_channel(running.address) as connected:
            health = health_pb2_grpc.HealthStub(connected).Watch(health_pb2.HealthCheckRequest())
            assert next(health).status == health_pb2.HealthCheckResponse.SERVING
            insert = SearchServiceStub(connected).Insert
            calls = [insert.future(search_service_pb2.InsertRequest(image_data=each)) for each in pictures]
            # All have been read when a later one was: they came over one connection.
            calls[0].result()
            running._process.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
            codes = [call.code() for call in calls]
            acknowledged = {call.result().image.image_id for call in calls if call.code() is grpc.StatusCode.OK}
            assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
            assert running._process.wait(20) == 0  # type: ignore[union-attr]
        assert acknowledged
        running.start()
        with Client(running.address) as client:
            assert acknowledged <= {image.image_id for image in client.list()}
        assert running.stop() == 0


def test_stopping_waits_neither_for_those_who_watch_nor_for_those_who_are_silent(settings):
    silent = threading.Event()
    with OpenServer(smaller(settings, drain_timeout=300)) as running, ThreadPoolExecutor(4) as pool:
        connected = grpc.insecure_channel(running.address)
        watch = health_pb2_grpc.HealthStub(connected).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        slow = [
            pool.submit(call_raw, connected, "SearchService/Insert", silence(silent)),
            pool.submit(list, stream_raw(connected, "SearchService/BulkInsert", silence(silent))),
        ]
        running.until(lambda: running.pictures.free == settings.max_bytes_in_flight - 2 * settings.max_message_bytes)
        running.run(running.app.__aexit__(None, None, None))
        watching = [each.status for each in watch_until_end(watch)]
        for each in slow:
            with refused(grpc.StatusCode.UNAVAILABLE, "NOT_SERVING"):
                each.result()
        silent.set()
        connected.close()
    assert watching == [health_pb2.HealthCheckResponse.NOT_SERVING]


def watch_until_end(watch: Iterator[health_pb2.HealthCheckResponse]) -> Iterator[health_pb2.HealthCheckResponse]:
    try:
        yield from watch
    except grpc.RpcError as error:
        assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


# Starting.


def test_a_unix_socket(settings, tmp_path):
    address = f"unix:{tmp_path}/socket"
    with ServerThread(smaller(settings, listen=address)) as running, Client(running.address) as client:
        assert running.address == address
        assert client.insert(picture(1)).outcome == "created"


def test_a_port_that_is_taken(settings, server):
    with pytest.raises(StartupError, match=f"cannot listen on {server.address}.*--listen"):
        ServerThread(smaller(settings, listen=server.address)).__enter__()


@pytest.mark.parametrize("listen", ["256.0.0.1:0", "unix:/nowhere/socket"])
def test_an_address_that_is_none(settings, listen):
    with pytest.raises(StartupError, match="--listen"):
        ServerThread(smaller(settings, listen=listen)).__enter__()


def test_a_data_folder_that_is_in_use(settings):
    with (
        ServerThread(settings),
        pytest.raises(StartupError, match=f"another server uses the data folder {settings.data_dir}"),
    ):
        ServerThread(settings).__enter__()
    with ServerThread(settings) as running, Client(running.address) as client:
        assert client.health() == "serving"


def test_a_data_folder_that_cannot_be_one(settings, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match="folder"):
        ServerThread(smaller(settings, data_dir=tmp_path / "file")).__enter__()


def test_a_bundle_that_is_missing_or_damaged(settings, bundle, tmp_path):
    with pytest.raises(StartupError, match="nothing"):
        ServerThread(smaller(settings, bundles=[tmp_path / "nothing"])).__enter__()
    damaged = shutil.copytree(bundle, tmp_path / "damaged")
    graph = damaged / "text.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"?")
    with pytest.raises(StartupError, match=r"text\.onnx"):
        ServerThread(smaller(settings, bundles=[damaged])).__enter__()


# The command.


def run_command(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CLIPSEEK_")}
    return subprocess.run(
        [sys.executable, "-m", "clipseek_server", *arguments],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_help_and_version():
    assert run_command("--version").stdout.strip() == version("clipseek")
    shown = run_command("--help")
    assert shown.returncode == 0
    assert "clipseek-server serve" in shown.stdout
    settings = run_command("serve", "--help")
    assert settings.returncode == 0
    flags = {f"--{name.replace('_', '-')}" for name in Settings.model_fields}
    missing = flags - set(re.findall(r"--[a-z0-9-]+", settings.stdout))
    assert not missing


@pytest.mark.parametrize("module", ["argparse", "asyncio", "pydantic", "clipseek_server.cli", "numpy"])
def test_ctrl_c_while_it_loads_ends_it_without_a_word(module, tmp_path):
    command = [sys.executable, "-X", "importtime", "-m", "clipseek_server", "serve", "--bundles", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        assert any(line.split("|")[-1].strip() == module for line in server.stderr)
        server.send_signal(signal.SIGINT)
        words = [line for line in server.stderr if not line.startswith("import time:")]
    assert (server.returncode, words) == (130, [])


def test_flags_go_before_the_environment_and_that_before_the_file(tmp_path):
    file = tmp_path / "clipseek.toml"
    file.write_text('queue_length = 11\nvision_batch = 12\ntext_batch = 13\nbundles = ["a", "b"]\n')
    secret = {"CLIPSEEK_MILVUS_URI": "http://milvus:19530", "CLIPSEEK_MILVUS_PASSWORD": "hush"}
    shown = run_command(
        "config",
        "--config",
        str(file),
        "--queue-length=31",
        CLIPSEEK_QUEUE_LENGTH="21",
        CLIPSEEK_VISION_BATCH="22",
        **secret,
    )
    assert shown.returncode == 0, shown.stderr
    settings = tomllib.loads(shown.stdout)
    assert [settings[name] for name in ("queue_length", "vision_batch", "text_batch")] == [31, 22, 13]
    assert settings["bundles"] == ["a", "b"]
    assert settings["max_bulk_streams"] == Settings.model_fields["max_bulk_streams"].default
    assert "hush" not in shown.stdout + shown.stderr
    again = tmp_path / "again.toml"
    again.write_text(shown.stdout)
    assert run_command("config", CLIPSEEK_CONFIG=str(again), **secret).stdout == shown.stdout
    # A secret is left out, not masked: the mask would become the secret.
    assert "# milvus_password is set and not shown" in shown.stdout.splitlines()
    assert settings["milvus_token"] == ""
    assert tomllib.loads(run_command("config", CLIPSEEK_CONFIG=str(again)).stdout)["milvus_password"] == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["config", "--queue-length", "0"], "queue_length"),
        (["config", "--config", "/nowhere.toml"], "/nowhere.toml"),
        (["config", "--max-image-bytes", "99999999"], "max_message_bytes"),
        (["config", "--listen", "nonsense"], "HOST:PORT"),
        (["config", "--listen", ""], "HOST:PORT"),
        (["config", "--max-bytes-in-flight", str(256 * MIB)], "lower it to 4"),
        (["config", "--max-small-message-bytes", str(64 * MIB)], "max_small_message_bytes"),
        (["config", "--max-metadata-bytes", "4096"], "max_metadata_bytes: an answer could take"),
        (["config", "--sweep-grace", "inf"], "finite"),
        (["config", "--no-such-setting", "1"], "no-such-setting"),
        (["dance"], "dance"),
        ([], "command"),
    ],
)
def test_settings_that_cannot_be_used(arguments, words):
    done = run_command(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_health_command(server):
    well = run_command("health", "--listen", server.address)
    assert (well.returncode, well.stdout) == (0, f"{server.address} is SERVING\n")
    away = run_command("health", "--listen", "127.0.0.1:1")
    assert away.returncode == 1
    assert "no answer" in away.stderr


def test_a_server_that_cannot_start_says_why(server, bundle, tmp_path):
    done = run_command(
        "serve", "--listen", server.address, "--bundles", str(bundle), "--data-dir", str(tmp_path / "data")
    )
    assert done.returncode == 1
    assert "another server" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_server_answers():
    with Client("127.0.0.1:1") as client, pytest.raises(UnavailableError, match="clipseek-server serve"):
        client.info(timeout=10)


def test_a_client_that_is_asked_to_connect_again_notices_nothing(bundle, tmp_path):
    settings = Settings(listen="127.0.0.1:0", bundles=[bundle], data_dir=tmp_path, max_connection_age=0.5)
    with capture_logs() as logs, ServerThread(settings) as server, Client(server.address) as client:
        client.insert(picture(1), image_id="a")
        end = time.monotonic() + 60
        while len({line["peer"] for line in logs if line["event"] == "call"}) < 3:
            assert client.search_image(image_id="a").hits == ()
            client.update("a", {"n": 1})
            assert client.download("a") == picture(1)
            assert time.monotonic() < end
