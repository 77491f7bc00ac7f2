"""`python -m export`: the command line of export."""

import sys

from .cli import main

if __name__ == "__main__":  # a process of its own (see `own_process`) imports this file, too
    sys.exit(main())
