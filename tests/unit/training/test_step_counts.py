"""What steps are made of is written down: FLOPs, bytes kept, messages, waits. A change that adds some is seen here."""

import itertools
import json
import os
import subprocess
import sys

import pytest
import step_counts
from sweeps import ROOT

from irtune.training.clock import StepClock


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    """Counts of every stage, made in a process of its own: what models leave in this one changes what is kept."""
    folder = tmp_path_factory.mktemp("counts")
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "support", ROOT / "benchmarks")))
    environment = os.environ | {"IRTUNE_HOME": str(folder), "PYTHONPATH": paths}
    command = [sys.executable, step_counts.__file__, str(folder / "found.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("stage", step_counts.STAGES)
def test_steps_are_made_of_what_is_written_down(stage, counts):
    found = counts[f"stage {stage}"]
    written = json.loads(step_counts.FILE.read_text())[f"stage {stage}"]
    # PYTHONPATH=.:benchmarks python tests/support/step_counts.py writes it anew, where a change is meant.
    assert found == written
    # Of irtune's own code only a refresh and a loss that is recorded make the host wait for the device.
    rooms = ("training/", "layers/")
    waits = {kind: [place for place in one["host_waits"] if place.startswith(rooms)] for kind, one in found.items()}
    assert waits["ordinary"] == []
    assert waits["refresh"]
    assert waits["logged"]
    assert found["refresh"]["saved_bytes"] < 1.2 * found["ordinary"]["saved_bytes"]


class Kept:
    """A recorder of metrics."""

    def __init__(self):
        self.metrics_by_step = {}

    def metrics(self, step, values):
        self.metrics_by_step.setdefault(step, {}).update(values)


class Late:
    """A mark on a device that takes three seconds a step and is always behind the host."""

    done = 0.0

    def __init__(self):
        self.at = Late.done

    def is_past(self):
        return False

    def wait(self):
        pass

    def seconds_since(self, earlier):
        return self.at - earlier.at


def test_a_run_takes_what_its_device_takes_however_often_it_is_logged(tmp_path, monkeypatch):
    monkeypatch.setenv("IRTUNE_HOME", str(tmp_path))
    taken = []
    for log_every in (2, 5):
        settings = {"training.max_steps": 5, "training.log_every": log_every, "training.eval_every": 3}
        with step_counts.loop_of(0, tmp_path / str(log_every), **settings) as loop:
            loop.clock, loop.recorder, loop.peak_flops_per_s = StepClock(Late), Kept(), 1e9
            step = loop.blocks.optimizer_step

            def takes_long(step=step):
                step()
                Late.done += 3.0

            monkeypatch.setattr(loop.blocks, "optimizer_step", takes_long)
            loop.run()
            logged = {k: v for k, v in loop.recorder.metrics_by_step.items() if "cost/step_s" in v}
            assert list(logged) == ([2, 4, 5] if log_every == 2 else [5])
            for values in logged.values():
                assert values["cost/step_s"] == 3.0
                assert values["cost/mfu"] == pytest.approx(values["cost/step_flops"] / 3.0 / 1e9)
            taken.append((loop.totals.train_s, loop.totals.probe_steps_s))
            # Of four examples, padding does not count.
            lengths = [loop.data.splits["train"].lengths[rows] for rows in itertools.islice(loop._stream(), 5)]
            assert loop.totals.tokens == sum(rows.sum() for rows in lengths) < 4 * sum(rows.max() for rows in lengths)
    assert taken[0] == taken[1] == (15.0, 9.0)
