"""The command ``clipseek-server``, also as ``python -m clipseek_server``."""

import sys


def main() -> None:
    """Run the command, or say what it needs."""
    try:
        from clipseek_server.cli import main as run
    except ModuleNotFoundError as error:
        sys.exit(f"clipseek-server needs {error.name}: pip install '.[server]', or '.[server-gpu]' for a GPU")
    run()


if __name__ == "__main__":
    main()
