"""Processes that take the place of the one that measures."""

import os
import time


def refuses(answers, config, folder):
    (folder / "started").touch()
    answers.send("MemoryError: too big")


def dies(answers, config, folder):
    os._exit(3)


def hangs(answers, config, folder):
    time.sleep(60)
