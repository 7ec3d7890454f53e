"""``python -m inframind.cli``."""

import sys

from inframind.cli import main

sys.exit(main())
