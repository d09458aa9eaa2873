"""A sweep leaves behind everything that it promises, with true statuses."""

import html
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml
from kept_scores import assert_scores_are_those_of_the_predictions
from mlflow.artifacts import list_artifacts
from mlflow.entities import Run
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from sweeps import ROOT, SweepRun, run_sweep

from irtune.cli import main
from irtune.studies.recorded import find_trial
from irtune.tracking.logged_model import has_files

STEPS, REFRESH, BLOCKS = 9, 3, 6
CUT = "0 of 150 examples cut, 0 without their change"
VALIDATION = "final/validation_f1_macro"
K_IS_2 = "selection.policy.k: {type: int, low: 2, high: 2}"


def test_a_sweep_ends_with_an_answer(tiny_sweep: SweepRun) -> None:
    assert tiny_sweep.status == 0, tiny_sweep.output
    assert "\nAnswer " in tiny_sweep.output
    assert "are noise" in tiny_sweep.output
    assert "mlflow server --backend-store-uri" in tiny_sweep.output
    assert "0/5 trials" in tiny_sweep.output
    (summary,) = tiny_sweep.runs("summary")
    report = html.unescape((tiny_sweep.folder / "report.html").read_text(encoding="utf-8"))
    assert summary.data.tags["irtune.answer"] in report
    assert (tiny_sweep.folder / "response.png").read_bytes().startswith(b"\x89PNG\r\n")
    table = (tiny_sweep.folder / "trials.md").read_text(encoding="utf-8")
    best = yaml.safe_load((tiny_sweep.folder / "best.yaml").read_text())
    assert best["model"]["name"] == "tiny-random"
    finished = [run for run in tiny_sweep.runs() if run.data.tags["irtune.pruned"] == "false"]
    assert all(f"{run.data.metrics['final/test_f1_macro']:.3f}" in table for run in finished)
    most = max(run.data.metrics["final/validation_f1_macro"] for run in finished)
    winners = [run.data.params for run in finished if run.data.metrics["final/validation_f1_macro"] == most]
    assert best["selection"]["policy"]["name"] in {params["selection.policy.name"] for params in winners}


def test_the_terminal_is_irtunes(tiny_sweep: SweepRun) -> None:
    for of_others in ("INFO", "WARNING", "Setting accelerator", "database tables", "leaked"):
        assert of_others not in tiny_sweep.output


def test_nobody_else_writes_down_what_trials_measure(tiny_sweep: SweepRun) -> None:
    # Ray Tune's loggers, of which the one for TensorBoard leaves a semaphore for each trial.
    theirs = ("tfevents", "progress.csv", "result.json")
    assert not [file for file in tiny_sweep.folder.rglob("*") if any(name in file.name for name in theirs)]


def test_every_trial_is_in_mlflow_as_it_ended(tiny_sweep: SweepRun, tmp_path: Path) -> None:
    runs = tiny_sweep.runs()
    assert len(runs) == 5
    assert {run.info.status for run in runs} == {"FINISHED"}
    baselines = [run for run in runs if run.data.tags["irtune.baseline"] == "true"]
    assert [run.data.params["selection.policy.name"] for run in baselines] == ["all"]
    assert baselines[0].data.tags["irtune.pruned"] == "false"
    for run in runs:
        pruned = run.data.tags["irtune.pruned"] == "true"
        assert ("final/test_f1_macro" in run.data.metrics) != pruned
        if not pruned:
            kept = tiny_sweep.client().download_artifacts(run.info.run_id, "predictions.npz", str(tmp_path))
            assert_scores_are_those_of_the_predictions(run.data.metrics, Path(kept))
        assert {"eval/f1_macro", "cost/step_s", "cost/step_flops", "train/loss"} <= set(run.data.metrics)
        assert {"training.learning_rate", "importance.within_block", "selection.reselect_every"} <= set(run.data.params)
        assert run.data.tags["irtune.engine.engine"] == "DeepSpeedEngine"
        assert run.data.tags["irtune.data"] == "synthetic"
        assert run.data.tags["irtune.data.lengths"].endswith(CUT)
        assert run.data.tags["irtune.sweep"] == tiny_sweep.folder.name


def test_traces_hold_a_record_for_each_refresh_and_k_active_blocks(tiny_sweep: SweepRun, tmp_path: Path) -> None:
    client = tiny_sweep.client()
    scores = {}
    for run in tiny_sweep.runs():
        names = {file.path for file in client.list_artifacts(run.info.run_id, "layer_importance")}
        assert names == {"layer_importance/trace.npz", "layer_importance/layer_importance.png"}
        file = client.download_artifacts(run.info.run_id, "layer_importance/trace.npz", str(tmp_path))
        with np.load(file, allow_pickle=False) as trace:
            steps_done = STEPS if run.data.tags["irtune.pruned"] == "false" else int(trace["step"][-1]) + REFRESH
            assert trace["step"].tolist() == list(range(0, steps_done, REFRESH))
            assert trace["scores"].shape == trace["active"].shape == (steps_done // REFRESH, BLOCKS)
            assert np.isfinite(trace["scores"]).all()
            assert (trace["measured_at"] == trace["step"][:, None]).all()
            k = int(run.data.params.get("selection.policy.k", BLOCKS))
            assert (trace["active"].sum(axis=1) == k).all()
            scores[run.data.params["importance.within_block"]] = trace["scores"][0]
    # The first refresh sees the same gradients in all trials, so only the aggregation can make scores differ.
    different = list(scores.values())
    assert len(different) > 1
    assert not any(np.allclose(a, b) for i, a in enumerate(different) for b in different[:i])


def test_the_summary_run_holds_the_sweep(tiny_sweep: SweepRun) -> None:
    (summary,) = tiny_sweep.runs("summary")
    assert summary.info.status == "FINISHED"
    assert summary.data.tags["irtune.answer"] in tiny_sweep.output
    assert summary.data.tags["irtune.data.lengths"].endswith(CUT)
    assert CUT in tiny_sweep.output
    assert CUT in (tiny_sweep.folder / "report.html").read_text(encoding="utf-8")
    files = {file.path for file in tiny_sweep.client().list_artifacts(summary.info.run_id)}
    assert {"report.html", "response.png", "best.yaml", "study.journal", "trials.md"} <= files


def test_the_adapters_of_the_best_trial_and_the_baseline_are_kept_and_uploaded(tiny_sweep: SweepRun) -> None:
    runs = {Path(run.data.tags["irtune.trial_folder"]).name: run for run in tiny_sweep.runs()}
    finished = {name: run for name, run in runs.items() if run.data.tags["irtune.pruned"] == "false"}
    selective = {name: run.data.metrics for name, run in finished.items() if name != "baseline"}
    # Of the best weights, as the sweep compares them; of equals the cheaper one.
    score, cost = "final/validation_f1_macro", "cost/total_flops"
    best = max(sorted(selective), key=lambda name: (selective[name][score], -selective[name][cost]))
    kept = {file.parent.parent.name for file in tiny_sweep.folder.glob("trials/*/adapter/adapter_model.safetensors")}
    assert kept == {best, "baseline"}
    models = tiny_sweep.client().search_logged_models([runs[best].info.experiment_id])
    # Every trial that finished is a model, and those have files whose adapters are uploaded.
    assert sorted(str(model.source_run_id) for model in models) == sorted(run.info.run_id for run in finished.values())
    places = {model.source_run_id: model.artifact_location for model in models if has_files(model)}
    assert {name for name, run in runs.items() if run.info.run_id in places} == kept
    adapter = list_artifacts(f"{places[runs[best].info.run_id]}/artifacts/adapter")
    names = {Path(file.path).name for file in adapter}
    assert {"adapter_config.json", "adapter_model.safetensors", "irtune.json", "predict.py"} <= names
    told = f"2 kept of {len(finished)} finished trials (baseline and {best})"
    assert told in tiny_sweep.output
    assert told in tiny_sweep.runs("summary")[0].data.tags["irtune.adapters"]


def test_the_winner_is_the_champion_of_the_sweeps_name(tiny_sweep: SweepRun) -> None:
    client = tiny_sweep.client()
    (version,) = client.search_model_versions("name = 'tiny'")
    assert client.get_model_version_by_alias("tiny", "champion").version == version.version
    winner = find_trial(str(tiny_sweep.folder), tiny_sweep.storage)
    assert client.get_run(version.run_id).data.tags["irtune.trial_folder"] == str(winner.folder)
    (best, *others) = client.search_logged_models(
        [client.get_run(version.run_id).info.experiment_id],
        datasets=[{"dataset_name": "synthetic"}],
        order_by=[{"field_name": f"metrics.{VALIDATION}", "ascending": False, "dataset_name": "synthetic"}],
    )
    scores = [{one.key: one.value for one in model.metrics}[VALIDATION] for model in (best, *others)]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == sum(run.data.tags["irtune.pruned"] == "false" for run in tiny_sweep.runs())
    assert winner.latest[VALIDATION] == scores[0]


def test_optuna_dashboard_reads_the_study(tiny_sweep: SweepRun) -> None:
    from optuna_dashboard._storage_url import get_storage

    storage = get_storage(str(tiny_sweep.folder / "study.journal"))
    (study,) = optuna.get_all_study_summaries(storage)
    trials = optuna.load_study(study_name=study.study_name, storage=storage).trials
    own = [trial for trial in trials if "duplicate_of" not in trial.user_attrs]
    assert len(own) == 4
    of_mlflow = [run.data.tags for run in tiny_sweep.runs() if run.data.tags["irtune.baseline"] == "false"]
    assert [trial.state for trial in own].count(TrialState.PRUNED) == sum(
        tags["irtune.pruned"] == "true" for tags in of_mlflow
    )
    assert all(trial.state == TrialState.PRUNED or trial.value == trial.user_attrs[VALIDATION] for trial in own)


def test_several_objectives_give_a_front_and_later_sweeps_learn_from_it(tmp_path: Path) -> None:
    several = "tune.metrics=[{eval/f1_macro: max}, {cost/step_flops: min}]"
    bounded = "tune.constraints={cost/active_blocks: {max: 4}}"
    # After three steps the macro-F1 of all trials is the same, and their loss is not.
    arguments = ("tests/support/tiny_sweep.yaml", several, bounded, "tune.scheduler.metric=eval/loss")
    first = run_sweep(tmp_path / "first", *arguments, "tune.num_trials=8")
    assert first.status == 0, first.output
    study = _study(first)
    own = [trial for trial in study.trials if "duplicate_of" not in trial.user_attrs]
    assert {trial.state for trial in own} == {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in own:
        k = trial.params["selection.policy.k"]
        if trial.state == TrialState.PRUNED:
            assert (trial.values, trial.user_attrs["intermediate/3"].keys()) == (None, {"eval/f1_macro"})
        else:
            kept = trial.user_attrs
            assert trial.values == [kept["final/validation_f1_macro"], kept["cost/mean_step_flops"]]
            assert trial.constraints == {"cost/active_blocks max": (k - 4) / 4}
    assert all(
        trial.state == TrialState.COMPLETE and trial.params["selection.policy.k"] < 5 for trial in study.best_trials
    )
    assert "+ on the Pareto front" in first.output
    assert "by eval/f1_macro, the first objective" in first.output
    (summary,) = first.runs("summary")
    assert "pareto.png" in {file.path for file in first.client().list_artifacts(summary.info.run_id)}

    warm_start = f"tune.warm_start={first.folder}"
    # On a terminal that lacks most characters, which costs neither report nor answer.
    ascii_only = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    second = run_sweep(tmp_path / "second", *arguments, "tune.num_trials=1", warm_start, **ascii_only)
    assert second.status == 0, second.output
    assert "Answer" in second.output
    (concluded,) = second.runs("summary")
    report = html.unescape((second.folder / "report.html").read_text(encoding="utf-8"))
    assert concluded.data.tags["irtune.answer"] in report
    earlier = [trial for trial in _study(second).trials if "earlier" in trial.user_attrs]
    assert [trial.values for trial in earlier] == [trial.values for trial in own]
    assert len(second.runs()) == 2


def _study(sweep: SweepRun) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(sweep.folder / "study.journal")))
    return optuna.load_study(study_name=sweep.folder.name, storage=storage)


def test_a_failing_trial_is_marked_a_killed_one_is_resumed_and_neither_harms_another(tmp_path: Path) -> None:
    policies = ["top_k", "faulty_policies:RaisesAtSecondRefresh", "faulty_policies:KillsItsWorkerOnce"]
    sweep = run_sweep(
        tmp_path / "storage",
        "tests/support/tiny_sweep.yaml",
        f"space={{selection.policy.name: {{type: categorical, choices: {policies}}}, {K_IS_2}}}",
        "tune.num_trials=3",
        "tune.scheduler=null",
        "tune.max_failures=1",
        IRTUNE_TEST_FLAGS=str(tmp_path),
    )
    assert sweep.status == 0, sweep.output
    baseline, (undisturbed, failed, killed) = _by_policy(sweep, "all", *policies)
    assert failed.info.status == "FAILED"
    assert "a bug in a user's policy" in failed.data.tags["irtune.error"]
    assert "a bug in a user's policy" in sweep.output
    # What it measured up to the failure is not lost.
    assert sweep.client().list_artifacts(failed.info.run_id, "layer_importance")
    assert (tmp_path / "killed").exists()
    assert {run.info.status for run in (baseline, undisturbed, killed)} == {"FINISHED"}
    _resumed_like_uninterrupted(sweep, killed, undisturbed)


def _by_policy(sweep: SweepRun, first: str, *others: str) -> tuple[Run, list[Run]]:
    runs = {run.data.params["selection.policy.name"]: run for run in sweep.runs()}
    return runs[first], [runs[name] for name in others]


def _resumed_like_uninterrupted(sweep: SweepRun, killed: Run, undisturbed: Run) -> None:
    """A trial that was killed once found what the same trial finds undisturbed, and no point of it came twice."""
    assert killed.data.tags["irtune.resumed_at"] == "6"
    final = {name: value for name, value in undisturbed.data.metrics.items() if name.startswith("final/")}
    assert final
    assert final == {name: killed.data.metrics[name] for name in final}
    for run in (killed, undisturbed):
        losses = sweep.client().get_metric_history(run.info.run_id, "train/loss")
        assert sorted(point.step for point in losses) == list(range(1, STEPS + 1))


def test_two_workers_shard_the_work_and_a_killed_one_is_replaced(tmp_path: Path) -> None:
    sweep = run_sweep(
        tmp_path / "storage",
        "tests/support/tiny_sweep.yaml",
        "engine.num_workers=2",
        "engine.zero_stage=2",
        "training.micro_batch_size=4",
        "space={selection.policy.name: {type: categorical, choices: [top_k, 'faulty_policies:KillsItsWorkerOnce']}, "
        f"{K_IS_2}}}",
        "tune.num_trials=2",
        "tune.scheduler=null",
        IRTUNE_TEST_FLAGS=str(tmp_path),
    )
    assert sweep.status == 0, sweep.output
    assert (tmp_path / "killed").exists()
    killed, (undisturbed, baseline) = _by_policy(sweep, "faulty_policies:KillsItsWorkerOnce", "top_k", "all")
    assert {run.info.status for run in (killed, undisturbed, baseline)} == {"FINISHED"}
    _resumed_like_uninterrupted(sweep, killed, undisturbed)
    for run in (killed, undisturbed):
        tags = run.data.tags
        assert tags["irtune.engine.optimizer"] == "DeepSpeedZeroOptimizer"
        assert (tags["irtune.engine.zero_stage"], tags["irtune.engine.world_size"]) == ("2", "2")
        assert tags["irtune.engine.backend"] == "gloo"
        assert tags["irtune.data.share_hash.rank_0"] != tags["irtune.data.share_hash.rank_1"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["selection.policy.k=0"], "selection.policy.k: 0 is not a number of blocks"),
        (["training.max_stps=3"], "training.max_stps: unknown key: did you mean 'max_steps'?"),
        (["selection.policy.k=7"], "selection.policy.k: 7 blocks asked for, the model has 6"),
        (["space.selection.policy.k.high=9"], "the model has 6"),
        (["model.name=no-such/model"], "use a local folder, a .gguf file, or one of smollm2-135m, tiny-random"),
        (["data={name: file, path: /no/such.csv}"], "/no/such.csv"),
        (["tracking.uri=http://127.0.0.1:9"], "tracking.uri"),
        (
            ["tune.metric=cost/step_flop"],
            "tune.metric: unknown metric 'cost/step_flop': did you mean 'cost/step_flops'?",
        ),
        (["tune.warm_start=/no/such/sweep"], "tune.warm_start: /no/such/sweep is not there"),
    ],
)
def test_a_mistake_is_one_clear_error(
    tmp_path: Path, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(ROOT / "tests/support/tiny_sweep.yaml")
    assert main(["sweep", file, *arguments, f"storage={tmp_path}/storage"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert told in errors
    assert not list((tmp_path / "storage").glob("*/tune")), "nothing may start"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["space.importance.within_block.choices=[l2, rms]"], "rank blocks of these shapes identically"),
        # Ray has to be asked.
        (["engine.cpus_per_worker=4096"], "a trial needs 1, each with 4096 CPUs"),
    ],
)
def test_the_script_ends_at_a_mistake_without_a_traceback(tmp_path: Path, arguments: list[str], told: str) -> None:
    sweep = run_sweep(tmp_path / "storage", "tests/support/tiny_sweep.yaml", *arguments)
    assert sweep.status == 2, sweep.output
    assert told in sweep.output
    assert "Traceback" not in sweep.output
    assert not list((tmp_path / "storage").glob("*/tune")), "nothing may start"


def test_the_repository_stays_clean(tiny_sweep: SweepRun) -> None:
    assert tiny_sweep.status == 0
    assert not [path for path in ROOT.iterdir() if path.name in {"mlruns", "mlflow.db", "ray_results", "outputs"}]
