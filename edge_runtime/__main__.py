"""``python -m edge_runtime``: see ``cli``."""

import sys

from .cli import main

sys.exit(main())
