"""`python -m pasdedeux` is the same program as `pasdedeux`."""

import sys

from pasdedeux.apps.cli import main

if __name__ == "__main__":
    sys.exit(main())
