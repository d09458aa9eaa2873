"""Processes that take the place of the one that measures."""

import multiprocessing
import os
import time


def refuses(connection, config, folder, started_at):
    (folder / "started").touch()
    connection.send(("MemoryError: too big", False))


def mistaken(connection, config, folder, started_at):
    connection.send(("ValueError: no such module", True))


def dies(connection, config, folder, started_at):
    os._exit(3)


def hangs(connection, config, folder, started_at):
    time.sleep(60)


def waits(connection, config, folder, started_at):
    """Says what it was asked."""
    asked = connection.recv() if connection.poll(60) else "nothing"
    connection.send((f"asked to {asked}", False))


def tells_its_start_method(connection):
    """Answer with the kind of locks that libraries make in a rehearsal, where one has asked for another kind."""
    from irtune.training import rehearsal

    multiprocessing.set_start_method("spawn", force=True)
    rehearsal.measure = lambda *asked: multiprocessing.get_start_method()
    rehearsal._answer_with_pace(connection, None, None, 0.0)
