"""Which adapters a sweep keeps and sends to MLflow, in the order in which its trials happen to end."""

import random
import shutil
from pathlib import Path
from typing import Any

import mlflow
import pytest
from saying import refused, says
from stores import stored_runs

from irtune.config.load import ConfigError, load, with_overrides
from irtune.config.sweep_schema import SweepConfig
from irtune.search.source import TrialSpec
from irtune.studies.adapters import Adapters
from irtune.studies.trial_record import TrialRecord
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.run_record import Ended, Opened, RunRecord, now_ms
from irtune.tracking.uploader import Uploader
from irtune.training.record import RecordWriter

SPACE = {"selection.policy.k": {"type": "int", "low": 1, "high": 5}}


def sweep(**settings: Any) -> SweepConfig:
    tree = {"space": SPACE, "model.name": "tiny-random", "data.name": "synthetic", "selection.policy.name": "top_k"}
    tree |= {"selection.policy.k": 3} | {key.replace("__", "."): value for key, value in settings.items()}
    return load(SweepConfig, None, tree)


class Trials:
    """The trials of a sweep on disk, as they end."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.config = sweep(**settings)
        self.folder = folder / "sweep"
        self.adapters = Adapters(self.config)

    def end(
        self, name: str, f1: float, flops: float = 1.0, status: str = "finished", repeats: str | None = None
    ) -> TrialRecord:
        folder = self.folder / "trials" / name
        (folder / "adapter").mkdir(parents=True)
        (folder / "adapter" / "weights").write_text(name)
        overrides = {"selection.policy.name": "all"} if name == "baseline" else {}
        experiment = with_overrides(self.config.experiment(), overrides)
        entry = TrialRecord(TrialSpec(name, {}, repeats), name, experiment, folder)
        values = {"eval/f1_macro": f1, "cost/total_flops": flops, "cost/step_flops": flops}
        entry.take([{"kind": "metrics", "step": 9, "attempt": 0, "values": values}])
        entry.settle()
        entry.status = status  # type: ignore[assignment]
        self.adapters.take(entry)
        return entry

    @property
    def kept(self) -> set[str]:
        return {file.parent.parent.name for file in self.folder.glob("trials/*/adapter/weights")}


@pytest.mark.parametrize("seed", range(5))
def test_the_best_trial_and_the_baseline_are_kept_in_whatever_order_they_end(tmp_path: Path, seed: int) -> None:
    trials = Trials(tmp_path)
    scores = {f"trial_{number:04d}": number / 100 for number in range(30)} | {"baseline": 0.05}
    names = list(scores)
    random.Random(seed).shuffle(names)
    for name in names:
        trials.end(name, scores[name])
        # However many there will be, storage never holds more than the best, the baseline and what just ended.
        assert len(trials.kept) <= 2
    assert trials.kept == {"trial_0029", "baseline"}
    assert says(trials.adapters.told(), "2 kept of 31 … baseline and trial_0029 … trials/*/adapter")


def test_as_many_are_kept_as_there_are_finalists_and_all_repeats(tmp_path: Path) -> None:
    trials = Trials(tmp_path, tune__finalists={"top": 2, "seeds": 2})
    for number in range(6):
        trials.end(f"trial_{number:04d}", number / 10)
    trials.end("baseline", 0.9)
    for seed in (1, 2):
        trials.end(f"finalist_trial_0005_seed_{seed}", 0.1, repeats="trial_0005")
    repeats = {"finalist_trial_0005_seed_1", "finalist_trial_0005_seed_2"}
    assert trials.kept == {"baseline", "trial_0004", "trial_0005"} | repeats


@pytest.mark.parametrize("seed", range(3))
def test_the_pareto_front_is_kept(tmp_path: Path, seed: int) -> None:
    trials = Trials(tmp_path, tune__metrics=[{"eval/f1_macro": "max"}, {"cost/step_flops": "min"}])
    ends = [("a", 0.9, 9.0), ("b", 0.8, 5.0), ("c", 0.7, 6.0), ("d", 0.5, 1.0), ("e", 0.4, 2.0), ("f", 0.9, 9.5)]
    random.Random(seed).shuffle(ends)
    for name, f1, flops in ends:
        trials.end(name, f1, flops)
    assert trials.kept == {"a", "b", "d"}


def test_trials_that_did_not_finish_or_break_a_constraint_count_for_nothing(tmp_path: Path) -> None:
    trials = Trials(tmp_path, tune__constraints={"cost/total_flops": {"max": 5}})
    trials.end("trial_0000", 0.5)
    trials.end("trial_0001", 0.9, status="failed")
    trials.end("trial_0002", 0.9, flops=7.0)
    assert trials.kept == {"trial_0000", "trial_0001"}


@pytest.mark.parametrize(("keep", "kept"), [("all", 4), ("none", 0)])
def test_all_or_none_are_kept(tmp_path: Path, keep: str, kept: int) -> None:
    trials = Trials(tmp_path, tracking__keep_adapters=keep, tracking__upload_adapters="none")
    for number in range(4):
        trials.end(f"trial_{number:04d}", number / 10)
    assert len(trials.kept) == kept
    assert trials.adapters.told().startswith(f"{kept} kept of 4 finished trials")


def test_what_is_not_kept_cannot_be_uploaded() -> None:
    with refused(ConfigError, "tracking.upload_adapters: all", "tracking.keep_adapters=all"):
        sweep(tracking__upload_adapters="all")
    assert sweep(tracking__upload_adapters="none").tracking.keep_adapters == "best"


@pytest.mark.parametrize("upload", ["best", "none"])
def test_the_best_go_to_mlflow_and_the_ends_of_their_runs_stay(tmp_path: Path, upload: str) -> None:
    trials = Trials(tmp_path, tracking__upload_adapters=upload)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = MlflowTracker(uri, "irtune")
    uploader = Uploader(tracker, interval_s=0.01)
    uploader.start()
    for name, f1 in (("trial_0000", 0.1), ("trial_0001", 0.3), ("trial_0002", 0.2)):
        folder = trials.folder / "trials" / name
        uploader.add(folder, Opened(f"sweep/{name}", name, {}, now_ms()))
        writer = RecordWriter(folder)
        writer.metrics(9, {"eval/f1_macro": f1})
        writer.result({"step": 9, "final": True})
        writer.close()
        uploader.finish(f"sweep/{name}", "FINISHED", {"irtune.pruned": "false"})
        assert uploader.drain(20) == {}
        trials.end(name, f1)
    before = stored_runs(uri)
    trials.adapters.upload(uploader)
    trials.adapters.upload(uploader)
    assert uploader.drain(20) == {}
    uploader.close()

    after, client = stored_runs(uri), mlflow.MlflowClient(uri)
    assert after == before
    runs = client.search_runs([tracker.experiment_id])
    sent = {run.info.run_name: [file.path for file in client.list_artifacts(run.info.run_id)] for run in runs}
    assert sent == {"trial_0000": [], "trial_0001": ["adapter"] if upload == "best" else [], "trial_0002": []}
    for name in after:
        assert RunRecord(trials.folder / "trials" / name.split("/")[1]).is_sent()


def test_without_mlflow_they_wait_for_the_next_chance(tmp_path: Path) -> None:
    trials = Trials(tmp_path)
    entry = trials.end("trial_0000", 0.1)
    record = RunRecord(entry.folder)
    record.begin(Opened("sweep/trial_0000", "n", {}, 1_000))
    record.finish(Ended("FINISHED", {}, None, 1_000))
    record.mark_sent("run", "http://host", 0, 0)
    assert record.is_sent()
    trials.adapters.upload(Uploader(MlflowTracker("http://127.0.0.1:9", "irtune", may_be_away=True)))
    assert not record.is_sent()


@pytest.mark.parametrize(("keep", "is_said"), [("best", True), ("none", False)])
def test_adapters_that_stayed_on_another_machine_are_said_once_with_what_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, keep: str, is_said: bool
) -> None:
    trials = Trials(tmp_path, tracking__keep_adapters=keep, tracking__upload_adapters="none")
    for seed in range(3):
        entry = trials.end(f"few_seed_{seed}", 0.5, repeats="few")
        if keep == "best" and seed:
            shutil.rmtree(entry.folder / "adapter")
    trials.adapters.upload(Uploader(MlflowTracker("http://127.0.0.1:9", "irtune", may_be_away=True)))
    assert len(caplog.records) == is_said
    if is_said:
        assert says(caplog.text, "few_seed_1", "irtune train --from", "tracking.keep_adapters=all", "few_seed_2")
        assert "few_seed_0" not in caplog.text
