"""``python -m recmtl`` is the command ``recmtl``."""

import sys

from recmtl.cli import main

sys.exit(main())
