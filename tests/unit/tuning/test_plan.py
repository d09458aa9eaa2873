"""What a sweep says before anything runs, and what stands beside it afterwards."""

import re
import sys
from contextlib import nullcontext
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from irtune.cli import main
from irtune.config.load import build
from irtune.config.schema import ExperimentConfig, SweepConfig
from irtune.tracking.json_file import write_json
from irtune.tracking.ledger import RunEnd, RunLedger, RunStart
from irtune.training.estimate import StepEstimate, Times
from irtune.training.rehearsal import RehearsalError
from irtune.tuning import plan as planning
from irtune.tuning.book import TrialEntry
from irtune.tuning.forecast import SweepCost, TrialCost
from irtune.tuning.plan import PLAN, Plan, Prediction, make_plan
from irtune.tuning.plan_view import compare, compared_markdown, compared_table, plan_facts, plan_table
from irtune.tuning.preflight import prepare, tokenise

TIMES = Times(1.0, 2.0, 4.0, 1e8, 1.0, 1e8, 0.0, 0.0)
MEASURED = StepEstimate("measured", "3 steps of the real model on this machine", 3 * 2**29, TIMES)
TREE = {
    "name": "small",
    "model": {"name": "tiny-random", "max_length": 16},
    "data": {"name": "synthetic", "train_size": 30, "validation_size": 10, "test_size": 10},
    "selection": {"policy": {"name": "top_k", "k": 2}, "reselect_every": 4},
    "training": {"max_steps": 8, "eval_every": 4, "micro_batch_size": 4},
    "engine": {"cpus_per_worker": 2},
    "space": {
        "selection.policy.k": {"type": "int", "low": 1, "high": 6},
        "training.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
    },
    "tune": {"num_trials": 9, "scheduler": {"name": "asha", "grace_steps": 4}},
}


class Rehearsed:
    """Takes the place of what measures, and notes what it was asked to."""

    def __init__(self, answer=MEASURED):
        self.answer = answer
        self.asked = []

    def begin(self, config):
        self.asked.append(config)

    def result(self):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path_factory):
    """A machine of 5 CPUs without GPUs, and no cluster."""
    monkeypatch.setattr(planning.os, "cpu_count", lambda: 5)
    monkeypatch.setattr(planning, "num_gpus", lambda: 0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def sweep(tmp_path, **changes):
    return build(SweepConfig, TREE | {"storage": str(tmp_path / "storage")} | changes, "x")


def plan_of(tmp_path, rehearsal=None, **changes):
    config = sweep(tmp_path, **changes)
    ready = prepare(config, "x", makes_store=False)
    return make_plan(config, ready, tokenise(config, ready, tmp_path / "encoded"), rehearsal)


def text_of(part):
    console = Console(file=StringIO(), width=200)
    console.print(part)
    return console.file.getvalue()


def test_a_measured_plan(tmp_path):
    rehearsal = Rehearsed()
    plan = plan_of(tmp_path, rehearsal)
    assert (plan.num_trials, plan.num_configurations, plan.at_once) == (10, None, 2)
    assert plan.estimate == MEASURED
    # A step's time goes with its FLOPs, and training fewer blocks takes fewer.
    for cost in (plan.baseline, plan.selective):
        assert cost.step_s == pytest.approx(4.0 * cost.train_flops / 8 / 1e8)
    assert 0.3 < plan.selective.train_flops / plan.baseline.train_flops < 0.95
    assert plan.most.stopped == 0 < plan.expected.stopped
    assert plan.expected.wall_s < plan.most.wall_s
    # Two at a time: about half of what all trials take, and no less.
    assert 0.5 * plan.most.trials_s <= plan.most.wall_s < 0.75 * plan.most.trials_s
    assert not (tmp_path / "storage").exists()


def test_what_it_says(tmp_path):
    facts = plan_facts(plan_of(tmp_path, Rehearsed()))
    lines = [f"{name}: {fact}" for name, fact in facts]
    assert lines[:6] == [
        "trials: 10: the baseline and 9 of infinitely many configurations",
        "space: selection.policy.k: int from 1 to 6",
        ": training.learning_rate: float from 0.0001 to 0.01, evenly in the logarithm",
        "a trial: 1 worker x 2 CPUs",
        "at once: 2, on this machine, which has 5 CPUs",
        "measured: 3 steps of the real model on this machine",
    ]
    assert "memory: 1.5 GiB a worker (measured)" in lines
    text = "\n".join(lines)
    assert re.search(r"the sweep: about \S+ if \d\.\d of 10 trials are stopped early, \S+ if none is", text)
    assert re.search(r"in all: about [\d.]+ core-hours and \S+ FLOPs if .*, [\d.]+ core-hours and \S+ FLOPs if", text)
    assert f"writes trials: {tmp_path}/storage/small-<date>-<time>/trials" in text
    assert f"writes MLflow: sqlite:///{tmp_path}/storage/mlflow.db, experiment irtune, which will be made" in text
    shown = text_of(plan_table(plan_of(tmp_path, Rehearsed())))
    assert all(fact.split(":")[0] in shown for _, fact in facts)


def test_every_kind_of_dimension(tmp_path):
    space = {
        "selection.policy.name": {"type": "categorical", "choices": ["top_k", "random"]},
        "selection.policy.k": {"type": "int", "low": 2, "high": 6, "step": 2},
        "importance.within_block": {
            "type": "categorical",
            "choices": ["l2", "max"],
            "when": {"key": "selection.policy.name", "in": ["top_k"]},
        },
    }
    plan = plan_of(tmp_path, space=space)
    facts = [fact for _, fact in plan_facts(plan)]
    assert "selection.policy.name: categorical: top_k, random" in facts
    assert "selection.policy.k: int from 2 to 6 in steps of 2" in facts
    assert "importance.within_block: categorical: l2, max; while selection.policy.name is top_k" in facts
    # 3 with each of 2 aggregations, and 3 without.
    assert plan.num_configurations == 9
    assert plan.num_trials == 10


def test_a_small_space_has_fewer_trials(tmp_path):
    plan = plan_of(tmp_path, space={"selection.policy.k": {"type": "int", "low": 1, "high": 3}})
    assert (plan.num_trials, plan.num_configurations) == (4, 3)


@pytest.mark.parametrize(
    ("engine", "at_once", "where"),
    [
        ({"num_workers": 2}, 2, "on this machine, which has 5 CPUs"),
        ({"num_workers": 6}, None, "none on this machine, which has 5 CPUs: engine.num_workers: a trial needs 6 CPUs"),
        (
            {"gpus_per_worker": 1},
            None,
            "none on this machine, which has 5 CPUs: engine.num_workers: a trial needs 1 GPU",
        ),
    ],
)
def test_how_many_trials_this_machine_holds(tmp_path, engine, at_once, where):
    plan = plan_of(tmp_path, engine=engine)
    assert plan.at_once == at_once
    assert plan.where.startswith(where)


def test_no_more_at_once_than_asked_for(tmp_path):
    assert plan_of(tmp_path, tune=TREE["tune"] | {"max_concurrent_trials": 1}).at_once == 1


def test_a_cluster_is_not_guessed_at(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    config = sweep(tmp_path)
    ready = prepare(config, "x", makes_store=False)
    plan = make_plan(config, ready, tokenise(config, ready, tmp_path / "encoded"), None)
    assert (plan.at_once, plan.where) == (None, "as many as the cluster holds")
    assert (plan.estimate.source, plan.estimate.times) == ("closed form", None)
    assert (plan.baseline.seconds, plan.expected.wall_s, plan.expected.trials_s) == (None, None, None)
    # FLOPs are known everywhere.
    assert plan.expected.flops > 9 * plan.selective.train_flops * 0.3
    facts = dict(plan_facts(plan))
    assert facts["measured"] == "nothing: trials run on a cluster, whose machines may be unlike this one"
    assert facts["time"].startswith("unknown")
    assert "hours" not in facts["in all"]


def test_a_failed_measurement_leaves_the_closed_form(tmp_path):
    plan = plan_of(tmp_path, Rehearsed(RehearsalError("measuring failed: MemoryError")))
    assert (plan.estimate.source, plan.estimate.how) == ("closed form", "measuring failed: MemoryError")
    assert plan.estimate.memory_bytes > 0


def test_a_plan_is_kept_and_read_again(tmp_path):
    when = {"type": "int", "low": 1, "high": 2, "when": {"key": "selection.reselect_every", "in": [4]}}
    space = {"selection.reselect_every": {"type": "categorical", "choices": [2, 4]}, "selection.policy.k": when}
    plan = plan_of(tmp_path, Rehearsed(), space=space)
    plan.write(tmp_path / "sweep")
    assert Plan.read(tmp_path / "sweep") == plan


def test_a_plan_that_cannot_be_read_is_none(tmp_path, caplog):
    assert Plan.read(tmp_path) is None
    assert not caplog.records
    (tmp_path / PLAN).write_text('{"name": "of another version"}', encoding="utf-8")
    assert Plan.read(tmp_path) is None
    assert PLAN in caplog.text


class TestPrediction:
    @pytest.fixture(autouse=True)
    def _nothing_is_started(self, monkeypatch):
        self.rehearsal = Rehearsed()
        monkeypatch.setattr(planning, "Rehearsal", lambda engine: nullcontext(self.rehearsal))

    def make(self, tmp_path):
        config, console = sweep(tmp_path), Console(file=StringIO(), width=200)
        ready = prepare(config, "x", makes_store=False)
        lengths = tokenise(config, ready, tmp_path / "encoded")
        with Prediction(config) as prediction:
            prediction.make(ready, lengths, tmp_path / "sweep", console)
        return console.file.getvalue()

    def test_is_said_and_kept(self, tmp_path):
        text = self.make(tmp_path)
        assert text.startswith("time     about ")
        assert text.endswith(" if no trial is stopped early (measured: 3 steps of the real model on this machine)\n")
        assert Plan.read(tmp_path / "sweep").estimate == MEASURED
        (tried,) = self.rehearsal.asked
        assert tried.selection.policy.name == "all"

    def test_that_fails_is_only_noted(self, tmp_path, caplog):
        self.rehearsal.answer = RuntimeError("a bug")
        assert self.make(tmp_path) == ""
        assert not (tmp_path / "sweep" / PLAN).exists()
        assert "goes on without a prediction: a bug" in caplog.text

    def test_of_a_sweep_that_goes_on_is_the_one_it_started_with(self, tmp_path):
        self.make(tmp_path)
        self.rehearsal.answer = replace(MEASURED, memory_bytes=1.0)
        assert self.make(tmp_path) == ""
        assert Plan.read(tmp_path / "sweep").estimate == MEASURED


@pytest.fixture
def entry(tmp_path):
    def entry(status, start_s, end_s, *, baseline=False, **latest):
        values = {f"cost/{name}": value for name, value in latest.items()}
        config = build(ExperimentConfig, {"training": {"max_steps": 10}}, "x")
        folder = tmp_path / f"{start_s}"
        folder.mkdir()
        write_json(folder / "run.json", RunStart("key", "t", {}, round(1000 * start_s), "spool"))
        RunLedger(folder).finish(RunEnd("FINISHED", {}, None, round(1000 * end_s)))
        return TrialEntry(f"{start_s}", "t", config, folder, baseline, status, latest=values)

    return entry


@pytest.fixture
def entries(entry):
    return [
        entry("finished", 1000, 1040, baseline=True, train_s=20.0, total_flops=800.0, peak_memory_bytes=2.0**30),
        entry("finished", 1041, 1071, train_s=15.0, total_flops=500.0, peak_memory_bytes=2.0**31),
        entry("pruned", 1060, 1080, train_s=5.0),
        entry("finished", 1080, 1100, train_s=15.0, total_flops=700.0, peak_memory_bytes=2.0**30),
        entry("failed", 1090, 1091),
    ]


def test_predicted_and_actual_side_by_side(tmp_path, entries):
    plan = replace(
        plan_of(tmp_path),
        baseline=TrialCost(4.0, 50.0, 800.0),
        selective=TrialCost(3.0, 20.0, 600.0),
        expected=SweepCost(80.0, 100.0, 1e4, 2.0),
        estimate=MEASURED,
    )
    found = {row.metric: (row.predicted, row.actual) for row in compare(plan, entries)}
    assert found == {
        "step_s": (4.0, 2.0),
        "baseline_s": (50.0, 40.0),
        # Of those that ran to their end: 30 s and 20 s.
        "trial_s": (20.0, 25.0),
        "trial_flops": (600.0, 600.0),
        "memory_bytes": (3 * 2.0**29, 2.0**31),
        "stopped": (2.0, 1.0),
        "trials_s": (100.0, 40 + 30 + 20 + 20 + 1),
        "sweep_s": (80.0, 100.0),
    }
    rows = compare(plan, entries)
    lines = compared_markdown(rows, plan).splitlines()
    assert lines[0] == "|  | predicted | actual | actual / predicted |"
    assert "| the baseline | 50s | 40s | 0.80 |" in lines
    assert "| memory of a worker | 1.5 GiB | 2 GiB | 1.33 |" in lines
    assert lines[-1] == "predicted: measured: 3 steps of the real model on this machine"
    assert rows[1].sentence == "50s, actually 40s (0.80 times)"
    shown = text_of(compared_table(rows, plan))
    assert all(row.name in shown and row.cells[3] in shown for row in rows)


def test_what_is_not_known_is_left_open(tmp_path, entry):
    rows = {row.metric: row for row in compare(plan_of(tmp_path), [entry("failed", 1000, 1001, baseline=True)])}
    assert rows["baseline_s"].cells[1:] == ("–", "–", "–")
    assert rows["sweep_s"].cells[1:] == ("–", "1.0s", "–")


def test_an_mlflow_database_that_is_not_there_is_not_made(tmp_path):
    prepare(sweep(tmp_path), "x", makes_store=False)
    assert not (tmp_path / "storage").exists()
    prepare(sweep(tmp_path), "x")
    assert (tmp_path / "storage" / "mlflow.db").exists()


@pytest.mark.parametrize(
    "arguments", [["FILE", "--plan", "seed=3"], ["FILE", "seed=3", "--plan"], ["--plan", "FILE", "seed=3"]]
)
def test_on_the_command_line(monkeypatch, tmp_path, capsys, arguments):
    asked = []

    def plan_sweep(config, source, console, rehearsal):
        asked.append(config.seed)
        return plan

    plan = plan_of(tmp_path)
    monkeypatch.setattr(planning, "plan_sweep", plan_sweep)
    monkeypatch.setitem(sys.modules, "irtune.tuning.sweep", None)
    file = Path(__file__).parents[3] / "search_spaces" / "quickstart.yaml"
    assert main(["sweep", *(str(file) if word == "FILE" else word for word in arguments)]) == 0
    assert asked == [3]
    assert "Plan of small" in capsys.readouterr().out


def test_flags_that_are_none_are_refused(capsys):
    for arguments in (["sweep", "--pln"], ["methods", "ir", "x=1"]):
        with pytest.raises(SystemExit):
            main(arguments)
        assert "unrecognized arguments" in capsys.readouterr().err
