"""Processes that take the place of the one that measures."""

import os
import time


def refuses(answers, config, folder, started_at):
    (folder / "started").touch()
    answers.send("MemoryError: too big")


def dies(answers, config, folder, started_at):
    os._exit(3)


def hangs(answers, config, folder, started_at):
    time.sleep(60)
