"""What a sweep says before anything runs."""

from io import StringIO

import pytest
from rich.console import Console
from saying import each_says, refused, says
from servers import free_ports

from irtune.cli import main
from irtune.config.load import ConfigError, build
from irtune.config.sweep_schema import SweepConfig
from irtune.files import read_json
from irtune.studies.plan import PLAN, Plan, predict
from irtune.studies.preflight import Sweep, prepare
from irtune.studies.resume import write_identity
from irtune.studies.sweep import SweepRunner
from irtune.tracking.address import ADDRESS
from irtune.tracking.connection import TrackingAwayError
from irtune.tracking.outbox import write_address
from irtune.training import distributed
from irtune.training import rehearsal as rehearsing
from irtune.training.cost import CostModel
from irtune.training.model import shapes_only
from irtune.training.pretrained import materialize
from irtune.training.rehearsal import Pace, RehearsalError
from irtune.workers import cluster

TREE = {
    "name": "small",
    "model": {"name": "tiny-random", "max_length": 64},
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
GIB = 2.0**30


class Rehearsed:
    """Takes the place of what measures: a second for each 100 MFLOPs, 0.5 GiB and another one for 4 x 64 tokens."""

    def __init__(self, failure=None):
        self.failure = failure
        self.is_loading = False

    def load(self):
        self.is_loading = True

    def pace(self):
        if self.failure:
            raise self.failure
        config = build(SweepConfig, TREE, "x")
        cost = CostModel.of(shapes_only(materialize(config.model), config.adapter), recompute=False)
        half, full = (cost.step_flops(range(lowest, 6), 1, 64) / 64 for lowest in (3, 0))
        seconds = (half / 1e8, full / 1e8)
        return Pace(3.0, 2.0, (half, full), seconds, 256, peak_bytes=1.5 * GIB, passing_bytes=GIB, cost=cost)


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    """A machine of 5 CPUs without GPUs, and no cluster."""
    monkeypatch.setattr(cluster.os, "cpu_count", lambda: 5)
    monkeypatch.setattr(distributed, "num_gpus", lambda: 0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def console():
    return Console(file=StringIO(), width=200)


def sweep(tmp_path, **changes):
    return build(SweepConfig, TREE | {"storage": str(tmp_path / "storage")} | changes, "x")


def plan_of(tmp_path, console, rehearsal=None, resume="ask", **changes):
    return SweepRunner().plan(sweep(tmp_path, **changes), "x", console, resume, rehearsal or Rehearsed())


def test_what_is_predicted(tmp_path, console):
    plan = plan_of(tmp_path, console)
    found = plan.predicted
    # The first trial starts its process: 3 s, and loads the model: 2 s. Steps take a second for each 100 MFLOPs.
    # Validation, at both ends, and test are 30 examples in all: a third of the 4 x 8 forwards and backwards.
    assert found["baseline_s"] == pytest.approx(5 + 8 * found["step_s"] * 4 / 3, rel=0.1)
    # Two at a time, so one of the other 10 starts a process too, the baseline at the best trial's rate among them.
    scoring_s = found["baseline_s"] - 5 - 8 * found["step_s"]
    assert found["trial_s"] == pytest.approx(2 + 3 / 10 + found["trial_flops"] / 1e8 + scoring_s)
    # A refresh, which two of eight steps are, computes frozen blocks again.
    assert 0.3 < found["trial_flops"] / 8 / 1e8 / found["step_s"] < 1
    # A sum over n from 1 to 9 of (1 + (n - 1) / 3) / (n + 1) goes on.
    go_on = sum((1 + (n - 1) / 3) / (n + 1) for n in range(1, 10))
    assert found["stopped"] == pytest.approx(9 - go_on)
    assert found["memory_bytes"] == 1.5 * GIB
    assert found["sweep_s"] < found["trials_s"] < found["baseline_s"] + 10 * found["trial_s"]


def test_what_it_says(tmp_path, console):
    plan_of(tmp_path, console).show(console)
    lines = console.file.getvalue().splitlines()
    assert each_says(
        lines[:2],
        ("data … synthetic: 30 train, 10 validation, 10 test", "5 labels"),
        ("lengths … 64 tokens", "50 of 50 examples cut", "0 without their change"),
    )
    assert lines[2].startswith(r"reads      Before: ")
    assert each_says(
        lines[3:8],
        ("trials … 10", "baseline included", "baseline again … settings of the best", "2 at a time"),
        (
            "space … infinitely many",
            '"selection.policy.k": {"type": "int", "low": 1.0, "high": 6.0}',
            '"training.learning_rate": {"type": "float", "low": 0.0001, "high": 0.01, "log": true}',
        ),
        ("workers … 1 per trial (in_process)", "2 CPUs"),
        ("estimated … measured steps … real model",),
        ("memory … 1.5 GiB per worker",),
    )
    assert lines[-2].startswith(f"results    {tmp_path}/storage/small-<date>-<time>: ")
    assert says(lines[-1], f"MLflow … sqlite:///{tmp_path}/storage/mlflow.db", "experiment irtune")
    assert not (tmp_path / "storage").exists()


def test_a_sweep_whose_first_step_fails_as_every_trial_would_is_refused(tmp_path, console):
    failed = RehearsalError("measuring failed: ValueError: no module called q_proj", is_of_trials=True)
    with refused(ConfigError, "x: … every trial", "q_proj"):
        plan_of(tmp_path, console, Rehearsed(failed))
    assert plan_of(tmp_path, console, Rehearsed(RehearsalError("too slow"))).source == "a closed form: too slow"


def test_nothing_is_loaded_for_settings_that_are_wrong(tmp_path, console):
    rehearsal = Rehearsed()
    with pytest.raises(ConfigError):
        plan_of(tmp_path, console, rehearsal, adapter={"target_modules": ["q_prj"]})
    assert not rehearsal.is_loading
    plan_of(tmp_path, console, rehearsal)
    assert rehearsal.is_loading


def test_larger_batches_take_more_memory(tmp_path, console):
    space = {"training.micro_batch_size": {"type": "categorical", "choices": [4, 8]}}
    # 0.5 GiB, and twice the GiB of 4 examples.
    assert plan_of(tmp_path, console, space=space).predicted["memory_bytes"] == 2.5 * GIB


@pytest.mark.parametrize(("renew_after", "starts"), [(1, 10), (2, 5), (5, 2), (50, 0)])
def test_a_worker_group_starts_for_each_so_many_trials(tmp_path, console, renew_after, starts):
    # Eleven trials, the baseline among them, whose own start is not counted among the others'.
    found, never = (
        plan_of(
            tmp_path,
            console,
            engine={"num_workers": 2},
            tune=TREE["tune"] | {"max_concurrent_trials": 1, "renew_after": trials},
        ).predicted
        for trials in (renew_after, 11)
    )
    assert found["trial_s"] - never["trial_s"] == pytest.approx(3 * starts / 10)
    assert found["baseline_s"] == never["baseline_s"]


def test_repeats_of_finalists_are_counted(tmp_path, console):
    once = plan_of(tmp_path, console, tune=TREE["tune"] | {"max_concurrent_trials": 1})
    tune = TREE["tune"] | {"max_concurrent_trials": 1, "finalists": {"top": 2, "seeds": 4}}
    plan = plan_of(tmp_path, console, tune=tune)
    # Two finalists, each beside a baseline at its own settings, and the baseline as given, on four seeds.
    again = "baseline again … settings of the best … 20 repeats over seeds"
    assert says(plan.facts["trials"], "10, the baseline included", again, "1 at a time")
    difference = plan.predicted["trials_s"] - once.predicted["trials_s"]
    assert difference == pytest.approx(20 * once.predicted["trial_s"])


def test_where_only_the_selection_is_searched_no_other_baseline_is_counted(tmp_path, console):
    space = {"selection.policy.k": {"type": "int", "low": 1, "high": 3}}
    tune = TREE["tune"] | {"finalists": {"top": 2, "seeds": 4}}
    plan = plan_of(tmp_path, console, space=space, tune=tune)
    assert says(plan.facts["trials"], "4, the baseline included … 12 repeats over seeds")
    assert "baseline again" not in plan.facts["trials"]


def test_a_small_space_has_fewer_trials(tmp_path, console):
    plan = plan_of(tmp_path, console, space={"selection.policy.k": {"type": "int", "low": 1, "high": 3}})
    assert plan.facts["trials"].startswith("4,")
    assert plan.facts["space"].startswith("3 configurations")


@pytest.mark.parametrize(
    ("engine", "told"),
    [
        ({"num_workers": 6}, "needs 6 … 1 CPUs and 0 GPUs … this machine has 5 CPUs and 0 GPUs"),
        ({"gpus_per_worker": 1}, "needs 1 … 1 CPUs and 1 GPUs"),
    ],
)
def test_what_can_never_run_is_refused(tmp_path, console, engine, told):
    with refused(ConfigError, told):
        plan_of(tmp_path, console, engine=engine)


def test_a_cluster_is_asked(tmp_path, console, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    calls = []
    monkeypatch.setattr(cluster, "connect", lambda: calls.append("connect"))
    nodes = [cluster.Node(name, name, {"CPU": 32.0, "GPU": gpus}) for name, gpus in (("a", 3.0), ("b", 4.0))]
    monkeypatch.setattr(cluster, "alive_nodes", lambda: nodes)
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: calls.append("shutdown"))
    with refused(ConfigError, "is a file", "2 nodes"):
        plan_of(tmp_path, console, engine={"gpus_per_worker": 2})
    nodes.pop(0)
    plan = plan_of(tmp_path, console, engine={"gpus_per_worker": 2})
    assert plan.facts["trials"].endswith("2 at a time")
    assert says(plan.facts["workers"], "1 per trial (in_process)", "1 CPUs", "2 GPUs")
    assert "GPU-hours" in plan.facts["in all"]
    assert calls == ["connect", "shutdown"] * 2


def test_a_failed_measurement_leaves_closed_forms(tmp_path, console):
    plan = plan_of(tmp_path, console, Rehearsed(RehearsalError("measuring failed: too big")))
    assert plan.facts["estimated"] == "from a closed form: measuring failed: too big"
    assert set(plan.predicted) == {"trial_flops", "memory_bytes", "stopped"}
    assert plan.predicted["trial_flops"] == pytest.approx(plan_of(tmp_path, console).predicted["trial_flops"])
    assert "FLOPs per step of the baseline" in plan.facts["per trial"]
    assert "hours" not in plan.facts["in all"]


def test_a_sweep_that_would_go_on_is_named_and_nobody_is_asked(tmp_path, monkeypatch):
    console = Console(file=StringIO(), width=200, force_terminal=True)
    monkeypatch.setattr(console, "input", None)
    config = sweep(tmp_path)
    folder = tmp_path / "storage" / "small-20260101-000000"
    write_identity(folder, config, config.data.load().fingerprint())
    before = sorted(path.name for path in (tmp_path / "storage").rglob("*"))
    plan = plan_of(tmp_path, console)
    assert says(console.file.getvalue(), "note: … small-20260101-000000", "--new")
    assert plan.facts["results"].startswith(str(folder))
    assert "<date>" in plan_of(tmp_path, console, resume="never").facts["results"]
    assert sorted(path.name for path in (tmp_path / "storage").rglob("*")) == before


def test_a_new_sweep_is_refused_while_mlflow_is_away_unless_that_is_allowed(tmp_path, console):
    expected = plan_of(tmp_path, console).predicted
    tracking = {"uri": f"http://127.0.0.1:{free_ports(1)[0]}"}
    with pytest.raises(TrackingAwayError, match=r"cannot be reached .*tracking\.may_be_away=true"):
        plan_of(tmp_path, console, tracking=tracking)
    assert plan_of(tmp_path, console, tracking=tracking | {"may_be_away": True}).predicted == expected
    # A sweep that goes on has reached it before.
    config = sweep(tmp_path, tracking=tracking)
    folder = tmp_path / "storage" / "small-20260101-000000"
    write_identity(folder, config, config.data.load().fingerprint())
    write_address(folder, tracking["uri"], "irtune")
    assert plan_of(tmp_path, console, resume="always", tracking=tracking).predicted == expected
    # One that was imported has not.
    (folder / ADDRESS).unlink()
    with pytest.raises(TrackingAwayError):
        plan_of(tmp_path, console, resume="always", tracking=tracking)


def test_what_cannot_be_resumed_is_refused(tmp_path, console):
    with pytest.raises(ConfigError, match="no sweep called 'small'"):
        plan_of(tmp_path, console, resume="always")


class TestPrediction:
    @pytest.fixture
    def begun(self, tmp_path, console):
        """A function that predicts a sweep."""
        config = sweep(tmp_path)
        ready = prepare(config, "x", makes_store=False)
        lengths = ready.inputs.keep(config, tmp_path / "encoded")
        begun = Sweep("small-1", tmp_path / "sweep", config, ready, "x")

        def predicted(rehearsal):
            predict(begun.folder, lambda: SweepRunner().make_plan(begun, lengths, rehearsal, 2), console)
            return console.file.getvalue()

        return predicted

    def test_is_said_and_kept(self, tmp_path, begun, console):
        text = begun(Rehearsed())
        assert text.startswith("time     ")
        assert says(text, "measured steps … real model")
        assert read_json(tmp_path / "sweep" / PLAN, Plan).predicted == plan_of(tmp_path, console).predicted

    def test_that_fails_is_only_noted(self, tmp_path, begun, caplog):
        assert begun(Rehearsed(RuntimeError("a bug"))) == ""
        assert not (tmp_path / "sweep" / PLAN).exists()
        assert "there is no prediction: a bug" in caplog.text

    def test_of_a_sweep_that_goes_on_is_the_one_it_began_with(self, tmp_path, begun):
        said = begun(Rehearsed())
        kept = (tmp_path / "sweep" / PLAN).read_text()
        assert begun(Rehearsed(RehearsalError("another"))) == said
        assert (tmp_path / "sweep" / PLAN).read_text() == kept


@pytest.mark.parametrize(
    "arguments", [["FILE", "--plan", "seed=3"], ["FILE", "seed=3", "--plan"], ["--plan", "FILE", "seed=3"]]
)
def test_on_the_command_line(monkeypatch, tmp_path, capsys, arguments):
    asked = []

    class Refusing(Rehearsed):
        def __init__(self, config):
            asked.append(config.seed)

        def __enter__(self):
            return Rehearsed(RehearsalError("not now"))

        def __exit__(self, *exception):
            pass

    monkeypatch.setattr(rehearsing, "Rehearsal", Refusing)
    file = tmp_path / "sweep.yaml"
    file.write_text(str(TREE | {"storage": str(tmp_path / "storage")}), encoding="utf-8")
    assert main(["sweep", *(str(file) if word == "FILE" else word for word in arguments)]) == 0
    assert asked == [3]
    assert "estimated  from a closed form: not now" in capsys.readouterr().out


def test_flags_that_are_none_are_refused(capsys):
    for arguments in (["sweep", "--pln"], ["methods", "ir", "x=1"]):
        with pytest.raises(SystemExit):
            main(arguments)
        assert "unrecognized arguments" in capsys.readouterr().err
