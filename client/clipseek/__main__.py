"""The command ``clipseek``. It needs the extra ``cli``; without it, it says so."""

import signal
import sys


def main() -> None:
    """Run the command line."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"clipseek: the command line needs {error.name}; in a clone of clipseek, run: pip install '.[cli]'\n"
        )
        sys.exit(2)
    from clipseek.cli.app import app

    # Whoever stops it is told what was done until then, as with Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app(prog_name="clipseek")


if __name__ == "__main__":
    main()
