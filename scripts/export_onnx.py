#!/usr/bin/env python3
"""Turn a CLIP checkpoint into a model bundle; see --help and docs/models.md."""

import sys

try:
    from clipseek_export.cli import main
except ImportError as error:
    sys.exit(
        f"{error.name} is not installed. `make install` installs everything into .venv: .venv/bin/python {sys.argv[0]}"
    )

sys.exit(main())
