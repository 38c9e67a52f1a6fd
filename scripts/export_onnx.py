#!/usr/bin/env python3
"""Turn a CLIP checkpoint into a model bundle; see --help and docs/models.md."""

import sys

from clipseek_export.cli import main

sys.exit(main())
