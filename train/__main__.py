"""`python -m train`: the command line of training."""

import sys

from .cli import main

sys.exit(main())
