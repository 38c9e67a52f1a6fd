"""``python -m clipseek_server``: the same as the command ``clipseek-server``."""

from clipseek_server.cli import main

if __name__ == "__main__":
    main()
