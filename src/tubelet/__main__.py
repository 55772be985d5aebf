"""`python -m tubelet` is the command `tubelet`."""

import sys

from tubelet.cli import main

if __name__ == "__main__":
    sys.exit(main())
