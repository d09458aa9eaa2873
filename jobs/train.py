"""A single run as a job: ``python jobs/train.py [FILE] [dotted.key=value …]``, also under ``ray job submit``."""

import sys

from irtune.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
