"""The command ``clipseek``. It needs the extra ``cli``; without it, it says so."""

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

    app(prog_name="clipseek")


if __name__ == "__main__":
    main()
