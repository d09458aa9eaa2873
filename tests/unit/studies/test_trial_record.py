"""What the driver knows of a trial from its records: progress, score, costs, and what it is called."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from irtune.analysis.groups import Groups
from irtune.config.load import build
from irtune.config.schema import ExperimentConfig
from irtune.config.study_schema import Aim
from irtune.importance import Importance
from irtune.layers import SelectionRecord
from irtune.search.source import TrialSpec
from irtune.studies.trial_names import config_hash, trial_name
from irtune.studies.trial_record import TrialRecord
from irtune.tracking.run_record import Ended, Opened, RunRecord
from irtune.training.record import RecordReader, RecordWriter

AIM = Aim({"eval/f1_macro": "max"})
TOP_K = {"selection": {"policy": {"name": "top_k", "k": 17}, "reselect_every": 20}}


def config_of(tree=TOP_K):
    return build(ExperimentConfig, tree, "x")


def entry_of(folder=Path("/nowhere"), tree=TOP_K, **fields):
    return TrialRecord(TrialSpec("0a1b", {}), "top_k k=17", config_of(tree), folder, **fields)


def metrics(step, **values):
    """A record of metrics; in keywords a slash is two underscores."""
    named = {name.replace("__", "/"): value for name, value in values.items()}
    return {"kind": "metrics", "time_ms": 0, "attempt": 0, "step": step, "values": named}


def step(number, seconds, flops, active, lowest, loss=1.0):
    return metrics(
        number,
        train__loss=loss,
        cost__step_s=seconds,
        cost__step_flops=flops,
        cost__active_blocks=active,
        cost__lowest_active_block=lowest,
        cost__memory_bytes=1000.0 + number,
    )


STEPS = [step(1, 0.5, 300.0, 30, 0, loss=1.4), step(2, 0.3, 100.0, 17, 4, loss=1.2), step(3, 0.4, 110.0, 17, 6)]


def test_a_trial_that_finished(tmp_path):
    entry = entry_of(tmp_path, num_blocks=30, status="finished")
    final = {
        "final__validation_f1_macro": 0.5,
        "final__validation_loss": 0.9,
        "final__test_f1_macro": 0.45,
        "final__train_loss": 0.8,
        "cost__train_s": 1.25,
        "cost__total_flops": 512.0,
        "cost__peak_memory_bytes": 2000.0,
        "cost__mean_active_blocks": 21.5,
        "cost__mean_lowest_active_block": 3.5,
        "cost__trainable_share": 0.7,
        "cost__mean_step_s": 0.5,
        "cost__mean_ordinary_step_s": 0.4,
        "cost__mean_tokens_per_s": 900.0,
        "cost__probe_flops": 12.0,
    }
    entry.take([*STEPS, metrics(3, eval__f1_macro=0.4, eval__loss=1.1), metrics(3, **final)])
    np.savez(
        tmp_path / "predictions.npz",
        validation_labels=np.array([1, 1]),
        test_labels=np.array([0, 1, 1]),
        test_probabilities=np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]),
    )
    row = entry.row(AIM)
    assert (row.trial_id, row.name, row.strategy, row.status) == ("0a1b", "top_k k=17", "top_k", "finished")
    assert (row.num_blocks, row.k, row.reselect_every, row.seed, row.within_block) == (30, 17, 20, 0, "l2")
    # The best weights count, not the last ones.
    assert (row.validation_score, row.test_score, row.train_loss) == (0.5, 0.45, 0.8)
    assert row.objective is None
    assert (row.seconds, row.flops, row.peak_memory_bytes) == (1.25, 512.0, 2000.0)
    assert (row.mean_active, row.mean_lowest_active, row.trainable_share) == (21.5, 3.5, 0.7)
    assert (row.step_s, row.tokens_per_s) == (0.5, 900.0)
    # Without measuring it would have been 500 FLOPs, and 0.4 seconds a step.
    assert (row.refresh_flops_share, row.refresh_time_share) == (pytest.approx(0.024), pytest.approx(0.25))
    assert row.test_labels.tolist() == [0, 1, 1]
    assert row.classes == {"validation": "1 of 2 classes"}
    assert row.test_predictions.tolist() == [0, 0, 1]
    assert row.params["selection.policy.k"] == 17
    assert row.test_groups is None


def test_the_groups_of_test_examples_are_read(tmp_path):
    entry = entry_of(tmp_path, num_blocks=30, status="finished")
    np.savez(
        tmp_path / "predictions.npz",
        test_labels=np.array([0, 1, 1]),
        test_probabilities=np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]),
        **Groups.of_names(["a", "b", "a"], "essay").arrays("test"),
    )
    groups = entry.row(AIM).test_groups
    assert (groups.of.tolist(), groups.called) == ([0, 1, 0], "essay")


def test_another_metric_becomes_the_objective():
    entry = entry_of(status="finished")
    entry.take([metrics(3, eval__loss=1.1, final__validation_loss=0.9, final__validation_f1_macro=0.5)])
    row = entry.row(Aim({"eval/loss": "min"}))
    assert (row.objective, row.validation_score) == (0.9, 0.5)
    assert row.score == 0.9


def test_a_trial_that_was_stopped_early_has_its_costs_summed_up_from_its_steps():
    entry = entry_of(status="pruned", num_blocks=30)
    entry.take([*STEPS, metrics(3, eval__f1_macro=0.4)])
    row = entry.row(AIM)
    assert row.seconds == pytest.approx(1.2)
    assert row.flops == pytest.approx(510)
    assert row.mean_active == pytest.approx(64 / 3)
    assert row.mean_lowest_active == pytest.approx(10 / 3)
    assert row.peak_memory_bytes == 1003
    assert (row.validation_score, row.test_score, row.train_loss) == (0.4, None, 1.0)
    assert row.trainable_share is None
    assert row.test_predictions is None


def test_steps_between_those_logged_count_like_them():
    entry = entry_of(status="pruned")
    entry.take([STEPS[1], step(4, 0.5, 200.0, 17, 4), metrics(5, eval__f1_macro=0.4)])
    row = entry.row(AIM)
    assert row.seconds == pytest.approx(5 * 0.4)
    assert row.flops == pytest.approx(5 * 150)
    assert row.mean_active == 17


def test_steps_that_a_restarted_trial_repeats_count_once():
    entry = entry_of(status="failed")
    entry.take(STEPS)
    again = [step(2, 0.9, 100.0, 17, 4), step(3, 0.6, 110.0, 17, 6), step(4, 0.4, 110.0, 17, 6)]
    # The uploader reads in pieces.
    for record in [{"kind": "resumed", "attempt": 1, "step": 1}, *again]:
        entry.take([record | {"attempt": 1}])
    assert entry.step == 4
    row = entry.row(AIM)
    assert row.seconds == pytest.approx(0.5 + 0.9 + 0.6 + 0.4)
    assert row.flops == pytest.approx(300 + 100 + 110 + 110)
    assert row.mean_active == pytest.approx((30 + 17 * 3) / 4)


def test_a_trial_is_as_far_as_its_furthest_step():
    entry = entry_of()
    entry.take(STEPS)
    entry.take([step(2, 0.9, 100.0, 17, 4)])
    assert entry.step == 3


def test_a_trial_that_never_measured_anything():
    row = entry_of().row(AIM)
    assert row.status == "killed"
    assert row.score is None
    measured = (
        "seconds",
        "flops",
        "mean_active",
        "mean_lowest_active",
        "train_loss",
        "peak_memory_bytes",
        "test_score",
    )
    assert [getattr(row, name) for name in measured] == [None] * len(measured)


def test_predictions_of_a_trial_that_did_not_finish_are_not_looked_at(tmp_path):
    (tmp_path / "predictions.npz").write_bytes(b"torn")
    assert entry_of(tmp_path, status="failed").row(AIM).test_predictions is None


@pytest.mark.parametrize(
    ("policy", "k", "within_block"),
    [
        ({"name": "top_k", "k": 0.5}, 3, "l2"),
        ({"name": "random", "k": 2}, 2, None),
        ({"name": "variance_split"}, None, "l2"),
        ({"name": "all"}, None, None),
    ],
)
def test_k_is_a_number_of_blocks_and_only_what_has_an_effect_is_shown(policy, k, within_block):
    entry = entry_of(tree={"selection": {"policy": policy}})
    entry.take([{"kind": "tags", "attempt": 0, "values": {"irtune.blocks": "6", "irtune.data": "synthetic"}}])
    row = entry.row(AIM)
    assert (row.num_blocks, row.k, row.within_block) == (6, k, within_block)


def test_what_a_trial_records_is_what_the_table_reads(tmp_path):
    writer = RecordWriter(tmp_path)
    writer.tags({"irtune.blocks": 30})
    for record in STEPS:
        writer.metrics(record["step"], record["values"])
    writer.metrics(3, {"eval/f1_macro": 0.25})
    writer.write(SelectionRecord(0, (0,), Importance.unseen(1), 1))
    writer.close()
    entry = entry_of()
    entry.take(RecordReader(tmp_path).poll())
    assert (entry.step, entry.num_blocks, entry.score("eval/f1_macro")) == (3, 30, 0.25)
    assert entry.row(AIM).flops == pytest.approx(510)


@pytest.mark.parametrize(
    ("tree", "name"),
    [
        (TOP_K | {"importance": {"within_block": "max"}}, "top_k k=17 refresh=20 max"),
        ({"selection": {"policy": {"name": "top_k", "k": 0.25}}}, "top_k k=0.25 refresh=20 l2"),
        # Without scores there is no aggregation to name.
        ({"selection": {"policy": {"name": "random", "k": 3}, "reselect_every": 1}}, "random k=3 refresh=1"),
        ({}, "variance_split refresh=20 l2"),
        (
            {"selection": {"policy": {"name": "variance_split", "window": [0.2, 0.8]}}},
            "variance_split window=[0.2, 0.8] refresh=20 l2",
        ),
        (
            {"selection": {"policy": {"name": "variance_split", "splits": 2}, "reselect_every": 5}},
            "variance_split splits=2 refresh=5 l2",
        ),
        ({"selection": {"policy": {"name": "all"}, "reselect_every": 5}}, "all"),
        # Of a method what is unusual for it.
        ({"method": "lisa", "selection": {"reselect_every": 5}}, "lisa k=2 refresh=5"),
        ({"method": "ir_authors"}, "ir_authors refresh=1 root_of_roots"),
        (
            {"method": "ir_authors", "selection": {"policy": {"splits": 2}}},
            "ir_authors splits=2 refresh=1 root_of_roots",
        ),
        ({"method": "spectrum"}, "spectrum k=0.5 once mean"),
        ({"method": "full"}, "all"),
    ],
)
def test_names_tell_what_is_special(tree, name):
    assert trial_name(config_of(tree)) == name


def test_configurations_are_the_same_wherever_their_results_lie():
    elsewhere = {"name": "other"} | {
        "storage": "/elsewhere",
        "tracking": {"uri": "http://host:5000", "experiment": "other"},
    }
    assert config_hash(config_of()) == config_hash(config_of(TOP_K | elsewhere))
    assert re.fullmatch("[0-9a-f]{12}", config_hash(config_of()))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"model": {"max_length": 100}},
        {"data": {"seed": 1}},
        {"importance": {"within_block": "max"}},
        {"selection": TOP_K["selection"] | {"reselect_every": 21}},
        {"training": {"learning_rate": 3e-4}},
        {"engine": {"deepspeed": {"wall_clock_breakdown": True}}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_any_other_setting_makes_another_configuration(change):
    assert config_hash(config_of(TOP_K | change)) != config_hash(config_of())


def test_of_a_trial_that_is_over_the_book_keeps_its_costs_and_not_its_steps():
    def ended_after(num_steps):
        entry = entry_of(status="pruned")
        entry.take(step(number, 0.5, 300.0 + number % 2, 30, 0) for number in range(1, num_steps + 1))
        before = entry.row(AIM)
        entry.settle()
        assert vars(entry.row(AIM)) == vars(before)
        return entry

    # 1,000 steps of half a second, of 300.5 FLOPs in the mean.
    row = ended_after(1000).row(AIM)
    assert (row.seconds, row.flops) == (pytest.approx(500), pytest.approx(300_500))
    assert len(pickle.dumps(ended_after(1000))) < len(pickle.dumps(ended_after(4))) + 50


def test_attempts_are_those_that_trained():
    entry = entry_of()
    assert entry.row(AIM).attempts == 1
    # One that found the result of another only says where it ran.
    tags = {"kind": "tags", "attempt": 2, "values": {}}
    entry.take([*STEPS[:2], step(2, 0.3, 100.0, 17, 4) | {"attempt": 1}, tags])
    assert entry.row(AIM).attempts == 2


def test_a_worker_that_was_cut_off_does_not_speak_for_the_one_after_it():
    entry = entry_of()
    entry.take([STEPS[0], step(2, 0.3, 100.0, 17, 4, loss=1.2) | {"attempt": 1}])
    entry.take([step(3, 9.0, 999.0, 30, 0, loss=9.9)])
    assert (entry.step, entry.latest["train/loss"]) == (2, 1.2)
    assert entry.row(AIM).flops == pytest.approx(400)


@pytest.fixture
def trained(tmp_path):
    """A trial that finished, as its own driver knows it; who looks has its folder alone."""
    entry = entry_of(tmp_path, status="finished", num_blocks=30, began_ms=1000)
    record = RunRecord(tmp_path)
    record.begin(Opened("key", entry.title, {"irtune.strategy": "top_k", "irtune.repeats": "top_k"}, 1000))
    writer = RecordWriter(tmp_path)
    writer.params(entry.config.model_dump(mode="json"))
    writer.tags({"irtune.blocks": 30, "irtune.blocks.name": "model.layers"})
    for each in STEPS:
        writer.metrics(each["step"], each["values"])
    writer.write(SelectionRecord(2, (0, 4), Importance.unseen(30), 2))
    writer.metrics(3, {"eval/f1_macro": 0.25})
    writer.result({"final/validation_f1_macro": 0.5, "final/test_f1_macro": 0.4, "best_step": 3})
    writer.close()
    record.finish(Ended("FINISHED", {"irtune.pruned": "false"}, None, 9000))
    entry.read()
    entry.spec = TrialSpec(tmp_path.name, {}, "top_k")
    return entry


def test_whoever_looks_sees_what_the_driver_sees(trained):
    looked = TrialRecord.of(trained.folder, "eval/f1_macro")
    looked.look()
    assert vars(looked.row(AIM)) == vars(trained.row(AIM))
    assert (looked.title, looked.status, looked.step) == (trained.title, trained.status, trained.step)
    assert (looked.seed, looked.max_steps, looked.is_baseline) == (trained.seed, trained.max_steps, trained.is_baseline)
    assert (looked.configuration, looked.tags["irtune.blocks.name"]) == ("top_k", "model.layers")
    assert looked.settings["selection.policy.k"] == 17
    assert (looked.curve, looked.active) == ({3: 0.25}, (0, 4))


def test_a_brief_look_sees_what_describes_a_trial_and_its_result(trained):
    looked = TrialRecord.of(trained.folder)
    looked.look(briefly=True)
    assert (looked.status, looked.score("eval/f1_macro"), looked.num_blocks) == ("finished", 0.5, 30)
    assert (looked.settings["seed"], looked.settings["selection.policy.name"]) == (0, "top_k")
    assert (looked.step, looked.curve) == (0, {})


@pytest.mark.parametrize(
    ("end", "has_result", "status", "was_killed"),
    [
        (None, False, None, False),
        # Its driver died before it heard of the end.
        (None, True, "finished", False),
        (Ended("KILLED", {}, None, 9), False, None, True),
        (Ended("KILLED", {}, None, 9), True, "finished", False),
        (Ended("FAILED", {}, "why", 9), False, "failed", False),
        (Ended("FINISHED", {"irtune.pruned": "true"}, None, 9), False, "pruned", False),
    ],
)
def test_how_a_trial_ended(tmp_path, end, has_result, status, was_killed):
    record, writer = RunRecord(tmp_path), RecordWriter(tmp_path)
    record.begin(Opened("key", "title", {}, 5))
    if has_result:
        writer.result({"final/validation_f1_macro": 0.5})
    if end is not None:
        record.finish(end)
    looked = TrialRecord.of(tmp_path)
    looked.look()
    assert (looked.status, looked.was_killed, looked.error) == (status, was_killed, end and end.error_text)


def test_a_trial_that_goes_on_after_it_was_killed_is_no_longer_killed(tmp_path):
    record = RunRecord(tmp_path)
    record.begin(Opened("key", "title", {}, 5))
    record.finish(Ended("KILLED", {}, None, 9))
    looked = TrialRecord.of(tmp_path)
    looked.look()
    assert looked.was_killed
    record.begin(Opened("key", "title", {}, 7))
    looked.look()
    assert (looked.status, looked.was_killed) == (None, False)
