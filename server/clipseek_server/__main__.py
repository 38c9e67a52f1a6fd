"""The command ``clipseek-server``, also as ``python -m clipseek_server``."""

import os
import signal
import sys

INTERRUPTED = 130


def main() -> None:
    """Run the command, or say what it needs."""
    # Raised amid an import, KeyboardInterrupt would be a traceback, or be lost in a finalizer. Nothing is open yet, and
    # what serves has a handler of its own.
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    try:
        from clipseek_server.cli import main as run
    except ModuleNotFoundError as error:
        sys.exit(f"clipseek-server needs {error.name}: pip install '.[server]', or '.[server-gpu]' for a GPU")
    run()


if __name__ == "__main__":
    main()
