"""``python -m recmtl`` is the command ``recmtl``."""

import sys

from recmtl.cli.main import main

sys.exit(main())
