"""Studies of several machines in one report, from their records alone."""

import json

import pytest
from recorded_studies import NUM_BLOCKS, begun, predicted, trial
from saying import refused, says

from irtune.cli import main
from irtune.config.ablation_schema import AblationConfig
from irtune.config.sweep_schema import SweepConfig
from irtune.results.together import OWN_BASELINES, _labels, report_together
from irtune.results.travel import export_study, import_study
from irtune.studies.recorded import StudyError

HERE, THERE = "here-20260101-120000", "there-20260102-120000"
ALL = {"policy": {"name": "all"}, "choices": ((0, tuple(range(NUM_BLOCKS))),)}


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("IRTUNE_HOME", str(tmp_path / "home"))


@pytest.fixture
def storage(tmp_path):
    return tmp_path / "storage"


def ran(folder, name, validation, test, **more):
    """A trial that finished with these scores, and predictions that are right as often as its score on test."""
    active = float(NUM_BLOCKS if more.get("policy") == ALL["policy"] else 2)
    costs = {"cost/train_s": 10.0, "cost/total_flops": 1e9 * active, "cost/mean_active_blocks": active}
    scores = {"final/test_f1_macro": test, "cost/mean_lowest_active_block": 0.0}
    predicted(trial(folder, name, validation, measured=costs | scores, **more), test)


def sweep(storage, name, baseline, best, **more):
    folder = begun(storage / name, SweepConfig, **more)
    if baseline is not None:
        ran(folder, "baseline", *baseline, **ALL)
    ran(folder, "trial_0000", *best)
    trial(folder, "trial_0001", 0.1, finished=False)
    return folder


def ablation(storage, name, few, baseline=(0.6, 0.62, 0.61), **more):
    folder = begun(storage / name, AblationConfig, **more)
    for cell, scores in {"all": baseline, "few": few}.items():
        tags = {"irtune.cell": cell, "irtune.arm": cell, "irtune.baseline": str(cell == "all").lower()}
        for seed, score in enumerate(scores):
            of_cell = ALL if cell == "all" else {}
            ran(folder, f"{cell}_seed_{seed}", score, score, seed=seed, repeats=cell, tags=tags, **of_cell)
    return folder


def column(table, heading):
    place = [one.heading for one in table.columns].index(heading)
    return [line.cells[place] for line in table.lines]


def test_two_sweeps_one_of_which_was_imported(storage, tmp_path, capsys):
    sweep(storage, HERE, (0.6, 0.6), (0.7, 0.7))
    far = sweep(tmp_path / "far", THERE, (0.5, 0.5), (0.9, 0.85))
    export_study(str(far), tmp_path / "far.zip", tmp_path)
    import_study(tmp_path / "far.zip", storage)

    page = tmp_path / "both.html"
    assert main(["report", "here", "there", "--storage", str(storage), "--out", str(page)]) == 0
    told = capsys.readouterr().out
    assert says(told, f"Of 2 studies {THERE}", "0.850 against 0.500", OWN_BASELINES, f"wrote {page}")
    report = report_together([HERE, THERE], storage)
    (table,) = report.tables.values()
    # By score on validation; of each study the trial that was killed comes last.
    assert column(table, "study")[:4] == [THERE, HERE, HERE, THERE]
    assert column(table, "val F1")[:4] == ["0.900", "0.700", "0.600", "0.500"]
    assert column(table, "status")[4:] == ["killed", "killed"]
    assert [line.is_best for line in table.lines].index(True) == 0
    assert report.studies.keys() == {HERE, THERE}
    assert says(report.studies[HERE], "3 trials", "2 finished", "0.700 against 0.600", "abc123")
    text = page.read_text(encoding="utf-8")
    assert all(name in text for name in (HERE, THERE, "data:image/png;base64,", "Before relying on it"))


def test_no_trial_is_held_against_the_baseline_of_another_study(storage):
    sweep(storage, HERE, (0.6, 0.6), (0.7, 0.7))
    sweep(storage, THERE, None, (0.9, 0.85))
    report = report_together(["here", "there"], storage)
    assert says(report.answer, THERE, "is not part of this sweep")


def test_one_study_alone_that_did_not_come_to_its_end(storage, capsys):
    sweep(storage, HERE, (0.6, 0.6), (0.7, 0.7))
    assert main(["report", "here", "--storage", str(storage)]) == 0
    told = capsys.readouterr().out
    assert says(told, "0.700 against 0.600", "killed")
    assert OWN_BASELINES not in told


def test_two_ablations(storage):
    ablation(storage, HERE, (0.8, 0.82, 0.81))
    ablation(storage, THERE, (0.5, 0.52, 0.51), baseline=(0.7, 0.72, 0.71))
    report = report_together(["here", "there"], storage)
    (table,) = report.tables.values()
    expected = [f"{cell} @ {name}" for name in (HERE, THERE) for cell in ("all", "few")]
    assert column(table, "cell") == expected
    assert [line.is_baseline for line in table.lines] == [True, False, True, False]
    assert [text[:6] for text in column(table, "to baseline")] == ["–", "+0.200", "–", "-0.200"]
    assert says(report.answer, "Holm-adjusted over 2 comparisons")


def test_ablations_of_several_corpora_stay_apart(storage):
    for name in (HERE, THERE):
        folder = begun(storage / name)
        for corpus in ("essays", "wiki"):
            tags = {"irtune.arm": "all", "irtune.baseline": "true", "irtune.corpus": corpus}
            tags["irtune.cell"] = cell = f"all @ {corpus}"
            ran(folder, f"all_{corpus}", 0.6, 0.6, repeats=cell, tags=tags, **ALL)
    (table,) = report_together([HERE, THERE], storage).tables.values()
    expected = [f"all @ {corpus}, {name}" for name in (HERE, THERE) for corpus in ("essays", "wiki")]
    assert column(table, "cell") == expected


def test_what_cannot_be_compared(storage):
    sweep(storage, HERE, (0.6, 0.6), (0.7, 0.7))
    sweep(storage, THERE, (0.6, 0.6), (0.7, 0.7), fingerprint="0ther")
    sweep(storage, "metric-20260101-120000", (0.6, 0.6), (0.7, 0.7), metric="accuracy")
    ablation(storage, "cells-20260101-120000", (0.8, 0.82, 0.81))
    with refused(StudyError, HERE, THERE, "data f1ngerprint and 0ther"):
        report_together([HERE, THERE], storage)
    with refused(StudyError, "metric f1_macro and accuracy"):
        report_together(["here", "metric"], storage)
    with refused(StudyError, "kind sweep or run and ablation"):
        report_together(["here", "cells"], storage)
    with refused(StudyError, HERE, "given twice"):
        report_together(["here", str(storage / HERE)], storage)
    with refused(StudyError, "nothing"):
        report_together(["here", "nothing"], storage)


def test_a_policy_that_is_not_on_this_machine_is_reported_all_the_same(storage):
    folder = sweep(storage, HERE, (0.6, 0.6), (0.7, 0.7))
    other = {"name": "absent_package.policies:Mine", "share": 0.3}
    for name in ("trial_0000", "trial_0001"):
        files = [folder / "trials" / name / file for file in ("measured.jsonl", "driver.jsonl")]
        for file in files:
            text = file.read_text().replace('"irtune.strategy":"top_k"', f'"irtune.strategy":"{other["name"]}"')
            file.write_text(text.replace('"policy":{"name":"top_k","k":2}', f'"policy":{json.dumps(other)}'))
    report = report_together(["here"], storage)
    assert column(report.tables["Trials"], "strategy") == [other["name"], "all", other["name"]]
    assert column(report.tables["Trials"], "blocks")[0] == "2/6"
    assert says(report.answer, other["name"], "0.700 against 0.600")


def test_a_trial_whose_records_tell_nothing_is_passed_over(storage, caplog):
    folder = sweep(storage, HERE, (0.6, 0.6), (0.7, 0.7))
    (folder / "trials" / "trial_0000" / "predictions.npz").write_bytes(b"PK no archive")
    report = report_together(["here"], storage)
    assert len(report.tables["Trials"].lines) == 2
    assert says(caplog.text, "trial_0000", "is passed over")
    for name in ("baseline", "trial_0001"):
        (folder / "trials" / name / "measured.jsonl").unlink()
    with refused(StudyError, "none of its 3 trials", "--resume"):
        report_together(["here"], storage)


def test_of_one_class_where_every_class_was_tested(storage):
    folder = begun(storage / HERE, SweepConfig, metric="f1/b")
    scores = {f"final/{split}_f1/{name}": 0.5 for split in ("validation", "test") for name in ("a", "b")}
    costs = {"cost/train_s": 1.0}
    predicted(trial(folder, "trial_0000", 0.7, measured=costs | scores), 0.75)
    assert column(report_together([HERE], storage).tables["Trials"], "test F1 b") == ["0.500"]
    other = trial(begun(storage / THERE, SweepConfig, metric="f1/b"), "trial_0000", 0.7, measured=costs)
    predicted(other, 0.75)
    with refused(StudyError, THERE, "f1/b"):
        report_together([THERE], storage)


def test_a_page_is_an_html_file(storage, tmp_path, capsys):
    sweep(storage, HERE, (0.6, 0.6), (0.7, 0.7))
    assert main(["report", "here", "--storage", str(storage), "--out", str(tmp_path / "both.pdf")]) == 2
    assert says(capsys.readouterr().err, "both.pdf", ".html")


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("sweep-20260101-120000", "sweep-20260101-130000"), ["120000", "130000"]),
        (("sweep-20260101-120000", "sweep-20260102-120000"), ["20260101-120000", "20260102-120000"]),
        ((HERE, THERE), [HERE, THERE]),
        (("a-b", "a"), ["b", "a"]),
        (("alone-1",), ["alone-1"]),
    ],
)
def test_tables_call_studies_by_what_tells_them_apart(names, labels):
    assert _labels(names) == labels


def test_the_page_says_what_each_is_called(tmp_path):
    names = ["quick-20260101-120000", "quick-20260101-130000"]
    for name in names:
        ablation(tmp_path, name, (0.7, 0.71, 0.72))
    report = report_together(names, tmp_path)
    assert {cell.rpartition(" @ ")[2] for cell in column(report.tables["Cells over seeds"], "cell")} == {
        "120000",
        "130000",
    }
    assert [says(report.studies[name], "called", name[-6:]) for name in names] == [True, True]
