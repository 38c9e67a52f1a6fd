"""TLS and tokens on a real server: who gets in, who does not, and what they are told."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

from certificates import Certificates
from clipseek import Client, PermissionDeniedError, Tls, TlsError, UnavailableError
from clipseek_server.config import Settings
from clipseek_server.errors import StartupError
from pictures import picture
from servers import ServerThread


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def files(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"), authority, "127.0.0.1", "search.example.org")


def _settings(bundle: Path, data_dir: Path, certificate: Path, key: Path, **more: Any) -> Settings:
    return Settings(
        listen="127.0.0.1:0",
        bundles=[bundle],
        data_dir=data_dir,
        tls_certificate=certificate,
        tls_key=key,
        **more,
    )


@pytest.fixture(scope="module")
def secure(bundle: Path, files: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    settings = _settings(
        bundle,
        tmp_path_factory.mktemp("data"),
        files.certificate,
        files.key,
        health_listen="127.0.0.1:0",
        tokens=["all"],
        read_tokens="one, two",
    )
    with ServerThread(settings) as server:
        yield server


def connected(server: ServerThread, **arguments: Any) -> Client:
    return Client(f"grpcs://{server.address}", **arguments)


def test_a_token_over_tls(secure: ServerThread, files: Certificates) -> None:
    with connected(secure, token="all", tls=Tls(ca=files.ca)) as client:
        image_id = client.insert(picture(1)).image_id
        assert client.search_image(picture(1))[0].image_id == image_id
        assert [result.error for result in client.insert_stream([picture(2)])] == [None]


def test_a_token_for_reading(secure: ServerThread, files: Certificates) -> None:
    with connected(secure, token="two", tls=Tls(ca=files.ca)) as client:
        assert client.info().models
        client.embed_text("a cat")
        for write in (
            lambda: client.insert(picture(3)),
            lambda: list(client.insert_stream([picture(3)])),
            lambda: client.delete("a"),
            lambda: client.delete_collection("default"),
            lambda: list(client.rebuild()),
        ):
            with pytest.raises(PermissionDeniedError, match="may only read") as caught:
                write()
            assert caught.value.reason == "PERMISSION_DENIED"


@pytest.mark.parametrize(("token", "status"), [("one", 0), ("wrong", 1)])
def test_the_load_generator_over_tls(secure: ServerThread, files: Certificates, token: str, status: int) -> None:
    where = ["--server", f"grpcs://{secure.address}", "--ca", str(files.ca)]
    load = ["bench", "--mix", "embed_text", "--seconds", "0.5", "--warmup", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "clipseek", *where, *load],
        env={**os.environ, "CLIPSEEK_TOKEN": token},
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stderr
    assert ("embed_text" in done.stdout) == (status == 0)


@pytest.mark.parametrize("token", ["", "wrong", "one,two"])
def test_no_token_or_a_wrong_one(secure: ServerThread, files: Certificates, token: str) -> None:
    with connected(secure, token=token, tls=Tls(ca=files.ca)) as client, pytest.raises(PermissionDeniedError) as caught:
        client.info()
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert "all" not in str(caught.value)


def test_a_picture_is_not_read_before_the_token_is(secure: ServerThread, files: Certificates) -> None:
    with connected(secure, tls=Tls(ca=files.ca)) as client, pytest.raises(PermissionDeniedError):
        client.search_image(b"x" * 10_000_000)


def test_an_authority_that_is_not_trusted(secure: ServerThread, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(stranger)
    client = connected(secure, token="all", tls=Tls(ca=stranger))
    with client, pytest.raises(TlsError, match=r"CERTIFICATE_VERIFY_FAILED: .*name the authority") as caught:
        client.insert(picture(1), timeout=10)
    assert not caught.value.may_pass


def test_a_client_without_tls_is_told_so(secure: ServerThread) -> None:
    with Client(secure.address, token="all") as client, pytest.raises(UnavailableError, match="grpcs://"):
        client.insert(picture(1), timeout=10)


def test_a_name_that_is_not_the_address(secure: ServerThread, files: Certificates) -> None:
    with connected(secure, token="all", tls=Tls(ca=files.ca, server_name="search.example.org")) as client:
        assert client.info().version
    client = connected(secure, token="all", tls=Tls(ca=files.ca, server_name="other.example.org"))
    with client, pytest.raises(TlsError, match="server_name"):
        client.insert(picture(1), timeout=10)


def test_probes_need_neither_tls_nor_a_token(secure: ServerThread) -> None:
    with grpc.insecure_channel(secure.server.health_address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with Client(secure.server.health_address) as client, pytest.raises(Exception, match="does not know this call"):
        client.info()


def test_the_health_command_asks_there(secure: ServerThread) -> None:
    command = [sys.executable, "-m", "clipseek_server", "health", "--health-listen", secure.server.health_address]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, "SERVING" in done.stdout) == (0, True), done.stderr


def test_the_command_line(secure: ServerThread, files: Certificates, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("all\n")
    command = [sys.executable, "-m", "clipseek", "--server", f"grpcs://{secure.address}", "--ca", files.ca]
    done = subprocess.run([*command, "--token-file", token, "info"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([*command, "info"], capture_output=True, text=True)
    assert (done.returncode, "authorization: Bearer TOKEN" in done.stderr) == (1, True)
    # What is not trusted will not be trusted later.
    stranger = [sys.executable, "-m", "clipseek", "--server", f"grpcs://{secure.address}", "info"]
    done = subprocess.run(stranger, capture_output=True, text=True)
    assert (done.returncode, "--ca" in done.stderr) == (1, True)


def test_clients_that_must_show_a_certificate(
    bundle: Path, files: Certificates, authority: trustme.CA, tmp_path: Path
) -> None:
    settings = _settings(bundle, tmp_path / "data", files.certificate, files.key, tls_client_ca=files.ca)
    own = Certificates(tmp_path / "own", authority, "client.example.org")
    with ServerThread(settings) as server:
        with connected(server, tls=Tls(ca=files.ca, certificate=own.certificate, key=own.key)) as client:
            assert client.info().version
        with connected(server, tls=Tls(ca=files.ca)) as client, pytest.raises(UnavailableError):
            client.insert(picture(1), timeout=10)


def test_a_renewed_certificate_is_served_without_a_restart(bundle: Path, tmp_path: Path) -> None:
    old, new = trustme.CA(), trustme.CA()
    served = Certificates(tmp_path / "served", old, "127.0.0.1")
    settings = _settings(bundle, tmp_path / "data", served.certificate, served.key)
    with ServerThread(settings) as server:
        with connected(server, tls=Tls(ca=served.ca.read_bytes())) as client:
            assert client.info().version
        renewed = Certificates(tmp_path / "renewed", new, "127.0.0.1")
        shutil.copy(renewed.key, served.key)
        shutil.copy(renewed.certificate, served.certificate)
        with connected(server, tls=Tls(ca=renewed.ca)) as client:
            assert client.info().version
        # Half a renewal: what cannot be used is not served.
        served.certificate.write_text("no certificate")
        with connected(server, tls=Tls(ca=renewed.ca)) as client:
            assert client.info().version


def test_files_that_are_no_certificate(bundle: Path, files: Certificates, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    settings = _settings(bundle, tmp_path / "data", broken, files.key)
    with pytest.raises(StartupError, match="certificate"), ServerThread(settings):
        pass
