"""A node of Ray that dies is noticed, said, and ends the process, whatever the main thread waits for."""

import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from irtune.workers import node_watch
from irtune.workers.node_watch import LOST, NodeWatch


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A process that is called as Ray's, a port that answers as its head does, and a handler like the driver's."""
    program = tmp_path / "raylet"
    program.write_text("#!/bin/sh\nsleep 60 & wait\n")
    program.chmod(0o755)
    raylet = subprocess.Popen([program, f"--raylet_socket_name={tmp_path}/socket"])
    head = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{head.getsockname()[1]}"
    joined = SimpleNamespace(raylet_socket_name=f"{tmp_path}/socket", gcs_address=address, head=True)
    monkeypatch.setattr(node_watch, "worker", SimpleNamespace(global_worker=SimpleNamespace(node=joined)))
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    # The script is called by its own name once it runs.
    deadline = time.monotonic() + 10
    while node_watch._process_with(joined.raylet_socket_name) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    yield SimpleNamespace(raylet=raylet, head=head, address=address, joined=joined)
    signal.signal(signal.SIGTERM, before)
    raylet.kill()
    raylet.wait()
    head.close()


def wait():
    """Half a minute in parts: a signal that comes just before a wait begins is seen at its end."""
    for _ in range(60):
        time.sleep(0.5)


def interrupted(watch):
    """How many seconds a main thread that waits is left waiting."""
    started = time.monotonic()
    with pytest.raises(SystemExit), watch:
        wait()
    # So that it does not end the process of the tests.
    watch._over.set()
    return time.monotonic() - started


def test_a_node_that_lives_is_left_alone(node):
    told = []
    with NodeWatch(told.append, interval_s=0.02) as watch:
        time.sleep(0.3)
        assert not watch.lost()
    assert told == []


def test_a_killed_raylet_is_told_once_and_interrupts_the_main_thread(node):
    told = []
    watch = NodeWatch(told.append, interval_s=0.02)
    node.raylet.kill()
    assert interrupted(watch) < 5
    assert watch.lost()
    assert told == [f"Ray's process on this node (raylet, {node.raylet.pid}) is gone"]


@pytest.mark.parametrize("is_here", [True, False])
def test_a_head_may_be_silent_for_a_while_and_a_distant_one_longer(node, monkeypatch, is_here):
    monkeypatch.setattr(node_watch, "_PATIENCE_S", {True: 0.3, False: 1.0})
    node.joined.head = is_here
    told = []
    # The watch counts from its making on, which a busy machine does well before it waits.
    began = time.monotonic()
    watch = NodeWatch(told.append, interval_s=0.02)
    node.head.close()
    interrupted(watch)
    assert (0.3 if is_here else 1.0) <= time.monotonic() - began < 5
    assert told[0].startswith(f"Ray's head ({node.address}) has not answered for")


def test_a_process_that_does_not_end_by_itself_is_ended(tmp_path):
    program = """
import signal, sys, time
from types import SimpleNamespace
from irtune.workers import node_watch
node = SimpleNamespace(raylet_socket_name="-", gcs_address="127.0.0.1:1", head=True)
node_watch.worker = SimpleNamespace(global_worker=SimpleNamespace(node=node))
node_watch._PATIENCE_S = {True: 0.1}
node_watch._FORCED_AFTER_S = 0.2
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with node_watch.NodeWatch(print, interval_s=0.05):
    time.sleep(60)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode == LOST, ended.stderr
    assert "has not answered" in ended.stdout


def test_a_ray_that_is_ended_on_purpose_is_not_lost(node):
    told = []
    with NodeWatch(told.append, interval_s=0.02) as watch:
        watch.stop()
        node.raylet.kill()
        time.sleep(0.2)
    assert not watch.lost()
    assert told == []
