"""`python -m pruneopt` is the `pruneopt` command."""

import sys

from pruneopt.cli import main

if __name__ == "__main__":
    sys.exit(main())
