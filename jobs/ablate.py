"""An ablation as a job: ``python jobs/ablate.py [FILE] [dotted.key=value …]``, also under ``ray job submit``."""

import sys

from irtune.cli import main

if __name__ == "__main__":
    sys.exit(main(["ablate", *sys.argv[1:]]))
