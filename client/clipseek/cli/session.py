"""What all commands share: the options that say where and how, and what becomes of errors."""

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from importlib.metadata import version as installed
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from clipseek import Client, ClipseekError, Tls
from clipseek.channel import credentials, endpoint, token_metadata
from clipseek.cli.help import help_text
from clipseek.cli.output import Output
from clipseek.requests import is_text

DEFAULT_SERVER = "127.0.0.1:50051"
_CALL_SECONDS = 30.0
FAILED, USAGE, TRY_AGAIN, INTERRUPTED = 1, 2, 3, 130

_PANEL = "Where and how (before or after the command)"
_SECURITY = "TLS and tokens (before the command)"
_SERVER_HELP = f"Address of the server. (default: {DEFAULT_SERVER}; environment: CLIPSEEK_SERVER)"
Timeout = Annotated[
    float | None,
    typer.Option(
        help="Seconds that each call may take. (default: 30; no limit for a download, rebuild or check; import has "
        "--patience)",
        min=0.001,
        rich_help_panel=_PANEL,
    ),
]
CollectionName = Annotated[
    str | None, typer.Option("--collection", "-c", help="Collection. (default: default)", rich_help_panel=_PANEL)
]
Freshness = Annotated[
    Literal["bounded", "strong"] | None,
    typer.Option(
        "--consistency", help="strong sees every acknowledged write; bounded may lag. (default: the server's choice)"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.", rich_help_panel=_PANEL)]


def _before_the_command(*names: str, help: str, variable: str, panel: str) -> Any:
    """An option that a variable can stand for. Only before the command: else it would win over one given there."""
    return typer.Option(*names, help=help, envvar=variable, show_envvar=False, rich_help_panel=panel)


def _security(help: str, variable: str) -> Any:
    return _before_the_command(help=f"{help} (environment: {variable})", variable=variable, panel=_SECURITY)


RootServer = Annotated[
    str | None,
    _before_the_command("--server", "-s", help=_SERVER_HELP, variable="CLIPSEEK_SERVER", panel=_PANEL),
]
Ca = Annotated[Path | None, _security("PEM file of the authorities to trust.", "CLIPSEEK_CA")]
Certificate = Annotated[
    Path | None,
    _security("PEM file of your own certificate, where the server asks for one.", "CLIPSEEK_CERTIFICATE"),
]
Key = Annotated[Path | None, _security("PEM file of its private key.", "CLIPSEEK_KEY")]
ServerName = Annotated[
    str, _security("Name in the server's certificate, if not the address's.", "CLIPSEEK_SERVER_NAME")
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        help="File with the token that the server wants. (environment: the token itself, CLIPSEEK_TOKEN)",
        rich_help_panel=_SECURITY,
    ),
]
Server = Annotated[str | None, typer.Option("--server", "-s", help=_SERVER_HELP, rich_help_panel=_PANEL)]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(installed("clipseek"))
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
]


@dataclass(frozen=True)
class Session:
    """Where a command goes, and how it prints.

    Attributes:
        server: Its address.
        timeout: Seconds that each call may take, those that may take hours too; ``None`` is what suits each.
        collection: Which; empty is the server's default.
        json: Whether to print JSON.
        token: That the server wants.
        tls: How to trust it; ``None`` is as its address says.
    """

    server: str = DEFAULT_SERVER
    timeout: float | None = None
    collection: str = ""
    json: bool = False
    token: str = field(default="", repr=False)
    tls: Tls | None = None

    @property
    def output(self) -> Output:
        """What the command prints through."""
        return Output(json=self.json)

    @property
    def call_timeout(self) -> float:
        """Seconds that a call may take which is answered at once."""
        return self.timeout or _CALL_SECONDS

    def client(self) -> Client:
        """A client of the server."""
        return Client(self.server, timeout=self.call_timeout, token=self.token, tls=self.tls)

    def over(self, server: str | None, timeout: float | None, collection: str | None, *, json: bool) -> "Session":
        """This session with what was given in its place."""
        return replace(
            self,
            server=self.server if server is None else server,
            timeout=self.timeout if timeout is None else timeout,
            collection=self.collection if collection is None else collection,
            json=self.json or json,
        )


def root(
    context: typer.Context,
    server: RootServer = None,
    timeout: Timeout = None,
    collection: CollectionName = None,
    json: Json = False,
    ca: Ca = None,
    certificate: Certificate = None,
    key: Key = None,
    server_name: ServerName = "",
    token_file: TokenFile = None,
    version: Version = False,
) -> None:
    """Options given before the command."""
    tls = Tls(ca=ca, certificate=certificate, key=key, server_name=server_name)
    session = Session(token=_token(token_file), tls=None if tls == Tls() else tls)
    context.obj = session.over(server, timeout, collection, json=json)


def _token(file: Path | None) -> str:
    if file is None:
        return os.environ.get("CLIPSEEK_TOKEN", "").strip()
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        _stop(f"the token cannot be read: {error}", USAGE)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a function of a ``Session`` into a command: the shared options are added, errors become exit codes."""

    @functools.wraps(function)
    def run(
        context: typer.Context,
        *,
        server: str | None,
        timeout: float | None,
        collection: str | None,
        json: bool,
        **own: Any,
    ) -> None:
        session: Session = context.obj.over(server, timeout, collection, json=json)
        _refuse_other_than_text([session.server, session.collection, *own.values()])
        try:
            credentials(endpoint(session.server), session.tls)
            token_metadata(session.token)
        except (OSError, ValueError) as error:
            _stop(str(error), USAGE)
        try:
            function(session, **own)
        except ClipseekError as error:
            _stop(_describe(error), TRY_AGAIN if error.may_pass else FAILED)
        except BrokenPipeError:
            # The reader (head, less) has seen enough.
            sys.stderr.close()
            sys.exit(FAILED)
        except (OSError, ValueError) as error:
            _stop(str(error), FAILED)
        except KeyboardInterrupt:
            _stop("interrupted", INTERRUPTED)
        except typer.Abort as error:
            # What a question makes of Ctrl-C, and of the end of the input.
            if isinstance(error.__context__, KeyboardInterrupt):
                _stop("interrupted", INTERRUPTED)
            raise

    own = list(inspect.signature(function).parameters.values())[1:]
    shared: list[tuple[str, Any, object]] = [
        ("server", Server, None),
        ("timeout", Timeout, None),
        ("collection", CollectionName, None),
        ("json", Json, False),
    ]
    parameters = [
        inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own),
        *(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, annotation, default in shared
        ),
    ]
    # Typer reads the signature; without these two lines it would follow the function that is wrapped.
    vars(run)["__signature__"] = inspect.Signature(parameters)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__wrapped__
    run.__doc__ = help_text(function.__doc__ or "")
    return run


def _refuse_other_than_text(values: Iterable[object]) -> None:
    """Paths may hold bytes that are not UTF-8; the contract's strings may not."""
    for value in values:
        if isinstance(value, list):
            _refuse_other_than_text(value)
        elif isinstance(value, str) and not is_text(value):
            _stop(f"this argument is not UTF-8 text: {value}", USAGE)


def _describe(error: ClipseekError) -> str:
    parts = [error.message]
    if error.retry_after is not None:
        parts.append(f"try again in {error.retry_after:g} s")
    if error.reason == "INTERNAL":
        parts.append(f"request id {error.request_id}")
    return "; ".join(parts)


def _stop(message: str, code: int) -> NoReturn:
    Output(json=False).note(f"clipseek: {message}")
    sys.exit(code)
