"""`python -m export`: the command line of export."""

import sys

from .cli import main

sys.exit(main())
