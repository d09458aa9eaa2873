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
    asked = [connection.recv() for _ in range(2) if connection.poll(60)]
    connection.send((f"asked to {', '.join(asked)}", False))


def notes_what_it_was_told(connection, config, folder, started_at):
    """Writes down how far it is, and at the end says it."""
    told = ["started"]
    for _ in range(2):
        (folder / "told").write_text(" ".join(told))
        told.append(connection.recv())
    connection.send((" ".join(told), False))


def tells_its_start_method(connection):
    """Answer with the kind of locks that libraries make in a rehearsal, where one has asked for another kind."""
    from irtune.training import rehearsal

    multiprocessing.set_start_method("spawn", force=True)
    rehearsal.measure = lambda *asked: multiprocessing.get_start_method()
    rehearsal._answer_with_pace(connection, None, None, 0.0)
