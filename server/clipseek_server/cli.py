"""The command ``clipseek-server``."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from importlib.metadata import version

from pydantic import ValidationError

from clipseek_server.config import Settings, load_settings, settings_as_toml
from clipseek_server.errors import StartupError
from clipseek_server.telemetry import configure_logging, log

USAGE_ERROR = 2
STARTUP_ERROR = 1

_DESCRIPTION = """\
The clipseek server: embeds pictures and sentences with CLIP and finds the nearest pictures in Milvus.

  clipseek-server serve                                 serve bundles/default with Milvus Lite in ./data
  clipseek-server serve --bundles bundles/clip --listen 0.0.0.0:50051
  clipseek-server serve --milvus-uri http://milvus:19530
  clipseek-server serve --help                          every setting
  clipseek-server config                                print the effective settings as TOML
  clipseek-server health                                exit with 0 if a server is serving
  clipseek-server plan --pictures 50M --qps 200         what so many pictures and searches take; plan --help says more

Every setting can be a flag (--data-dir), an environment variable (CLIPSEEK_DATA_DIR) or a line in the TOML file that
--config (or CLIPSEEK_CONFIG) names; the first that is given wins."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exits with 0, 1 (cannot start, not serving) or 2 (wrong usage)."""
    parser = argparse.ArgumentParser(
        prog="clipseek-server", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=version("clipseek"))
    parser.add_argument("command", choices=["serve", "config", "health", "plan"], help="what to do")
    arguments = list(sys.argv[1:] if argv is None else argv)
    known = parser.parse_args(arguments[:1])
    if known.command == "plan":
        _plan(arguments[1:])
        return
    try:
        settings = load_settings(arguments[1:], program=f"clipseek-server {known.command}")
    except (ValidationError, StartupError) as error:
        _fail(_in_words(error), USAGE_ERROR)
    run = {"serve": _serve, "config": _config, "health": _health}[known.command]
    run(settings)


def _serve(settings: Settings) -> None:
    # Only now: these bring ONNX Runtime and pymilvus along, and --help should not wait for them.
    from clipseek_server.app import serve

    configure_logging(settings.log_level, json=settings.log_format == "json")
    try:
        asyncio.run(serve(settings))
    except StartupError as error:
        log.error("cannot start", reason=str(error))
        sys.exit(STARTUP_ERROR)


def _config(settings: Settings) -> None:
    sys.stdout.write(settings_as_toml(settings))


def _plan(arguments: Sequence[str]) -> None:
    from clipseek_server.planning.command import main as plan

    plan(arguments)


def _health(settings: Settings) -> None:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    if settings.tls_certificate and not settings.health_listen:
        _fail("with --tls-certificate, health is asked at --health-listen: set it too", USAGE_ERROR)
    listen = settings.health_listen or settings.listen
    target = listen.replace("0.0.0.0", "127.0.0.1", 1)  # noqa: S104 - the address to ask, not to listen on
    try:
        with grpc.insecure_channel(target) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    except grpc.RpcError as error:
        _fail(f"no answer from {target}: {error.code().name}", STARTUP_ERROR)
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        _fail(f"{target} is {status}", STARTUP_ERROR)
    sys.stdout.write(f"{target} is {status}\n")


def _in_words(error: Exception) -> str:
    if isinstance(error, ValidationError):
        problems = [
            f"  {'.'.join(map(str, problem['loc'])) or 'settings'}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors()
        ]
        return "\n".join(["these settings cannot be used:", *problems])
    return str(error)


def _fail(message: str, status: int) -> None:
    sys.stderr.write(f"clipseek-server: {message}\n")
    sys.exit(status)
