"""``python -m clipseek_export``."""

import sys

from clipseek_export.cli import main

sys.exit(main())
