"""Processes that take the place of the one that measures."""

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
