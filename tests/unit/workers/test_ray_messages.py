"""What Ray's daemons say reaches the terminal in a line, unless it is of no use."""

import logging

import pytest
from ray._private import worker

from irtune.workers import ray_messages

COUNT = (
    "WARNING: 12 PYTHON worker processes have been started on node: 5f3c with address: 127.0.0.1. This could be a "
    "result of using a large number of actors, or due to tasks blocked in ray.get() calls"
)
DIED = "Raylet is terminated. Last 20 lines of the Raylet logs:\n    [state-dump] \n    time"


@pytest.fixture(autouse=True)
def _taken_over(monkeypatch):
    # For it to be put back.
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    ray_messages.take_over()


def say(text):
    """As Ray's listener does."""
    worker.print_to_stdstream({"lines": [text], "pid": "raylet", "is_err": False}, ignore_prefix=False)


def test_the_count_of_worker_processes_is_not_shown_and_other_messages_are_in_a_line(caplog, capsys):
    with caplog.at_level(logging.WARNING):
        say(COUNT)
        say(DIED)
    assert caplog.messages == ["Ray: Raylet is terminated."]
    assert capsys.readouterr().out == ""


def test_nothing_is_lost_to_who_asks_for_it(caplog):
    with caplog.at_level(logging.DEBUG):
        say(COUNT)
        say(DIED)
    assert caplog.messages[0] == f"Ray: {COUNT}"
    assert "[state-dump]" in caplog.messages[-1]
