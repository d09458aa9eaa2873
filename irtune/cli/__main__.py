"""``python -m irtune.cli``."""

import sys

from irtune.cli import main

if __name__ == "__main__":
    sys.exit(main())
