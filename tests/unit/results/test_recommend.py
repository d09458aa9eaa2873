"""``irtune recommend`` on the folders of studies, as their trials' records leave them."""

import json
import shutil
from importlib.metadata import version

import peft
import pytest
import yaml
from pydantic import TypeAdapter
from recorded_studies import NUM_BLOCKS, SCORES, TREE, all_blocks, begun, cell, trial
from saying import refused, says
from tiny_models import classifier

from irtune.analysis.layer_card import LayerCard
from irtune.analysis.trials import beside_selection
from irtune.cli import main
from irtune.config.ablation_schema import AblationConfig
from irtune.config.load import build, dotted_keys, with_overrides
from irtune.config.schema import ExperimentConfig
from irtune.config.sweep_schema import SweepConfig
from irtune.results.control import control_of
from irtune.results.recommend import recommend
from irtune.search.ablation_cells import cells_of, seeds_of
from irtune.studies.recorded import StudyError
from irtune.studies.resume import IDENTITY
from irtune.training.record import RecordWriter


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("IRTUNE_HOME", str(tmp_path / "home"))


@pytest.fixture
def study(tmp_path):
    """A folder of an ablation or a sweep in which nothing has run yet."""

    def make(kind=AblationConfig, name="tiny-20261127-230158", **more):
        return begun(tmp_path / "storage" / name, kind, **more)

    return make


def test_the_card_has_what_other_cells_measured_on_the_same_data(study, tmp_path):
    folder = study()
    cell(folder, "few", [0.5, 0.7])
    energies = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    trial(folder, "energy_seed_0", 0.1, repeats="energy", scores=energies, signal="activation_energy")
    trial(folder, "max_seed_0", 0.1, repeats="max", scores=[0.5] * 6, signal="activation_energy")
    elsewhere = {"irtune.corpus": "other"}
    trial(folder, "far_seed_0", 0.1, repeats="far", scores=[9.0] * 6, signal="weight_norm", tags=elsewhere)
    _, found = recommend("tiny", tmp_path / "storage", "few")
    assert [block.activation_energy for block in found.card.blocks] == energies
    assert set(found.card.blocks[0].importance) == {"gradient_norm", "activation_energy"}
    assert found.card.origin.configuration == "few"


def test_an_ablation_from_its_folder_to_four_files(study, capsys, tmp_path):
    folder = study()
    all_blocks(folder)
    cell(folder, "few", [0.5, 0.7])
    cell(folder, "worse", [0.5, 0.6], choices=((0, (1, 2)),))
    trial(folder, "tune_few_trial_0000", 0.99, choices=((0, (1, 2)),), tags={"irtune.kind": "tuning"})
    trial(folder, "few_seed_2", 0.99, seed=2, repeats="few", choices=((0, (1, 2)),), finished=False)

    assert main(["recommend", "tiny", "--storage", str(tmp_path / "storage")]) == 0
    out = capsys.readouterr().out
    names = {}
    exec((folder / "recommendation.py").read_text(), names)
    # Blocks 4, 5 for four steps of ten and 0, 5 for six.
    assert names["layers"].layers_to_transform == [0, 5]
    settings = yaml.safe_load((folder / "recommendation.yaml").read_text())
    assert peft.LoraConfig(**settings["layers"]).to_dict() == names["layers"].to_dict()
    # Of 24 as 1 : 2 : 3 : 4 : 5 : 9.
    ranks = list(settings["ranks"]["rank_pattern"].values())
    assert ranks == [1, 2, 3, 4, 5, 9]
    assert list(settings["ranks"]["alpha_pattern"].values()) == [2 * rank for rank in ranks]
    assert (folder / "recommendation.py").read_text().strip() in out
    assert (folder / "layer_card.png").read_bytes().startswith(b"\x89PNG")
    assert says(out, f"wrote {folder / 'layer_card.png'}")

    card = TypeAdapter(LayerCard).validate_json((folder / "layer_card.json").read_bytes())
    assert (card.origin.configuration, card.origin.seeds, card.origin.steps) == ("few", (0, 1), 10)
    assert card.origin.score.mean == pytest.approx(0.6)
    assert (card.origin.model, card.origin.corpus, card.origin.data_fingerprint) == (
        "tiny-random",
        "synthetic",
        "f1ngerprint",
    )
    assert (card.origin.strategy, card.origin.git_commit, card.origin.irtune_version) == (
        "top_k",
        "abc123",
        version("irtune"),
    )
    assert [block.selection_frequency.mean for block in card.blocks] == pytest.approx([0.6, 0, 0, 0, 0.4, 1.0])
    assert [block.importance["gradient_norm"].mean for block in card.blocks] == SCORES
    assert [block.rank for block in card.blocks] == ranks
    # The model of the tests has six equal blocks.
    assert [block.forward_share for block in card.blocks] == pytest.approx([1 / 6] * 6)
    shares = [block.train_share for block in card.blocks]
    assert shares == sorted(shares, reverse=True)
    assert 0.3 < shares[-1] < shares[0] < 1.0


def test_of_a_sweep_the_best_on_validation_and_of_finalists_the_best_mean(study, tmp_path):
    folder = study(SweepConfig)
    trial(folder, "baseline", 0.95, policy={"name": "all"}, choices=((0, range(NUM_BLOCKS)),))
    trial(folder, "trial_0000", 0.8, choices=((0, (0, 1)),))
    trial(folder, "trial_0001", 0.9, choices=((0, (2, 3)),))
    found = recommend(str(folder), tmp_path)[1]
    assert (found.card.origin.configuration, found.advice.layers) == ("trial_0001", (2, 3))
    assert says(*found.advice.notes, "one seed")
    # The trial that the search liked best is not the best over seeds.
    for seed, (first, second) in enumerate([(0.8, 0.7), (0.7, 0.75)], start=1):
        trial(
            folder, f"finalist_trial_0000_seed_{seed}", first, seed=seed, repeats="trial_0000", choices=((0, (0, 1)),)
        )
        trial(
            folder, f"finalist_trial_0001_seed_{seed}", second, seed=seed, repeats="trial_0001", choices=((0, (2, 3)),)
        )
    found = recommend(str(folder), tmp_path)[1]
    assert (found.card.origin.configuration, found.card.origin.seeds) == ("trial_0000", (0, 1, 2))
    assert found.advice.layers == (0, 1)
    # The seed that the search chose it by flatters it.
    assert found.card.origin.score.mean == pytest.approx(0.75)


def test_what_is_minimised_and_what_breaks_a_constraint(study, tmp_path):
    tune = {"metric": "cost/train_s", "mode": "min", "constraints": {"eval/f1_macro": {"min": 0.5}}}
    folder = study(SweepConfig, tune=tune)
    for name, score, seconds in [("trial_0000", 0.4, 1.0), ("trial_0001", 0.6, 2.0), ("trial_0002", 0.9, 3.0)]:
        place = trial(folder, name, score, finished=False)
        writer = RecordWriter(place)
        writer.result({"step": 10, "final": True, "final/validation_f1_macro": score, "cost/train_s": seconds})
        writer.close()
    assert recommend(str(folder), tmp_path)[1].card.origin.configuration == "trial_0001"


def test_another_trial_or_cell_on_request(study, tmp_path):
    folder = study()
    all_blocks(folder)
    cell(folder, "few", [0.5, 0.7])
    cell(folder, "worse", [0.1, 0.2], choices=((0, (1, 2)),))
    for name in ("worse", "worse_seed_1"):
        found = recommend(str(folder), tmp_path, name)[1]
        assert (found.advice.layers, found.card.origin.seeds) == ((1, 2), (0, 1))
    with refused(StudyError, "--trial all", "every block", "few, worse"):
        recommend(str(folder), tmp_path, "all")
    with refused(StudyError, "--trial other", "few, worse"):
        recommend(str(folder), tmp_path, "other")


def test_scores_on_several_corpora_are_not_compared(study, tmp_path):
    folder = study()
    for corpus in ("essays", "wiki"):
        cell(folder, f"few @ {corpus}", [0.5, 0.7], tags={"irtune.corpus": corpus})
    with refused(StudyError, "essays, wiki", "--trial", "few @ wiki"):
        recommend(str(folder), tmp_path)
    assert recommend(str(folder), tmp_path, "few @ wiki")[1].card.origin.configuration == "few @ wiki"


def test_the_newest_study_of_a_name(study, tmp_path):
    for name, choices in [
        ("tiny-20261127-230158", (0, 1)),
        ("tiny-20261128-000000", (2, 3)),
        ("tiny-b-20261129-000000", (4, 5)),
    ]:
        cell(study(name=name), "few", [0.5], choices=((0, choices),))
    folder, found = recommend("tiny", tmp_path / "storage")
    assert (folder.name, found.advice.layers) == ("tiny-20261128-000000", (2, 3))
    assert recommend("tiny-20261127-230158", tmp_path / "storage")[1].advice.layers == (0, 1)


def test_a_policy_that_measures_nothing_names_blocks_only(study, tmp_path):
    folder = study()
    for seed in (0, 1):
        trial(folder, f"few_seed_{seed}", 0.5, seed=seed, repeats="few", scores=None)
    found = recommend(str(folder), tmp_path)[1]
    assert (found.advice.layers, found.advice.ranks) == ((0, 5), None)
    assert list(yaml.safe_load(found.yaml())) == ["layers"]
    assert says(" ".join(found.advice.notes), "selection.measure=always")


def test_a_model_that_is_not_here_costs_the_costs_only(study, tmp_path, monkeypatch):
    folder = study()
    cell(folder, "few", [0.5, 0.6])
    monkeypatch.setattr("irtune.training.pretrained.find_local", lambda config: None)
    found = recommend(str(folder), tmp_path)[1]
    assert {(block.forward_share, block.train_share) for block in found.card.blocks} == {(None, None)}
    assert found.advice.ranks == (1, 2, 3, 4, 5, 9)
    assert "modules_to_save" not in found.advice.configs["layers"]


def test_experts_that_peft_cannot_tell_apart_by_block_are_refused(study, tmp_path, monkeypatch):
    folder, model = study(), tmp_path / "mixtral"
    classifier("mixtral").save_pretrained(model)
    monkeypatch.setitem(TREE, "model", {"name": str(model)})
    cell(folder, "few", [0.5], target_modules="all-linear")
    with refused(StudyError, "adapter.target_modules", "stack", "q_proj"):
        recommend(str(folder), tmp_path)
    cell(folder, "attention", [0.6], target_modules=["q_proj", "v_proj"])
    assert recommend(str(folder), tmp_path)[1].advice.layers == (0, 5)


def test_dora_is_lora_and_nothing_else_is(study, tmp_path):
    folder = study()
    cell(folder, "few", [0.5], type="dora", target_modules="all-linear")
    config = recommend(str(folder), tmp_path)[1].advice.configs["layers"]
    assert (config["use_dora"], config["target_modules"]) == (True, "all-linear")
    assert "layers_to_transform" not in config
    cell(folder, "better", [0.9], type="ia3")
    with refused(StudyError, "adapter.type", "ia3", "--trial"):
        recommend(str(folder), tmp_path)


@pytest.mark.parametrize(
    ("trials", "facts"),
    [
        (lambda folder: None, ["none has", "0 others"]),
        (lambda folder: trial(folder, "few", 0.5, finished=False), ["none has", "1 others"]),
        (all_blocks, ["2 trials have finished", "every block"]),
        (lambda folder: trial(folder, "tune_few_trial_0000", 0.5, tags={"irtune.kind": "tuning"}), ["none has"]),
    ],
    ids=["nothing", "unfinished", "baselines", "tuning"],
)
def test_a_study_in_which_nothing_selective_finished(study, tmp_path, capsys, trials, facts):
    folder = study()
    trials(folder)
    with refused(StudyError, "no trial that selects blocks", "--resume", *facts):
        recommend(str(folder), tmp_path)
    assert main(["recommend", str(folder)]) == 2
    assert says(capsys.readouterr().err, "error: ", "no trial that selects blocks")
    assert not (folder / "recommendation.py").exists()


def test_a_folder_that_is_no_study(study, tmp_path):
    (tmp_path / "empty").mkdir()
    with refused(StudyError, str(tmp_path / "empty"), "sweep.json"):
        recommend(str(tmp_path / "empty"), tmp_path)
    with refused(StudyError, "'other'", "--storage", "which has none"):
        recommend("other", tmp_path)
    folder = study()
    with refused(StudyError, "'tinny'", folder.name):
        recommend("tinny", folder.parent)


def test_other_peoples_and_older_folders_are_refused(study, tmp_path):
    folder = study()
    cell(folder, "few", [0.5, 0.6])
    link = tmp_path / "link"
    link.symlink_to(folder)
    with refused(StudyError, "is a link to"):
        recommend(str(link), tmp_path)
    folder.chmod(0o777)
    with refused(StudyError, "everybody", "of your own"):
        recommend(str(folder), tmp_path)
    folder.chmod(0o755)
    identity = json.loads((folder / IDENTITY).read_text()) | {"format": 1}
    (folder / IDENTITY).write_text(json.dumps(identity))
    with refused(ValueError, "format 1"):
        recommend(str(folder), tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda place: (place / "driver.jsonl").write_text("{}\n"),
        lambda place: rewrite(place, "selection", active=[17]),
        lambda place: rewrite(place, "selection", active="first"),
        lambda place: rewrite(place, "params", values={"seed": "one"}),
        lambda place: rewrite(place, "params", values={"seed": "(" * 100_000}),
        lambda place: [shutil.move(place, place.parent.parent / "x"), place.symlink_to(place.parent.parent / "x")],
    ],
    ids=["driver", "block", "text", "seed", "nested", "link"],
)
def test_a_trial_whose_records_are_damaged_is_passed_over(study, tmp_path, damage):
    folder = study()
    cell(folder, "few", [0.5, 0.6, 0.7])
    damage(folder / "trials" / "few_seed_1")
    found = recommend(str(folder), tmp_path)[1]
    assert found.card.origin.seeds == (0, 2)


def test_a_control_is_three_cells_on_seeds_that_the_study_never_saw(study, tmp_path):
    folder = study(SweepConfig)
    trial(folder, "trial_0000", 0.8, choices=((0, (3, 5)),), r=9, alpha=18)
    found = recommend(str(folder), tmp_path)[1]
    config = control_of(folder, found, 3, {"training.learning_rate": 0.25})
    cells = {cell.name: with_overrides(config.experiment(), cell.overrides) for cell in cells_of(config)}
    assert list(cells) == ["static", "dynamic", "uniform"]
    assert (config.name, config.storage) == (f"{folder.name}-control-trial_0000", str(folder.parent))
    assert [list(seeds_of(config, cell)) for cell in cells_of(config)] == [[2_000_000, 2_000_001, 2_000_002]] * 3
    # What differs is what is compared.
    assert dotted_keys(cells["dynamic"].selection)["policy.k"] == 2
    assert cells["static"].selection.policy.blocks == (3, 5)
    assert cells["uniform"].strategy == "all"
    assert {name: (one.adapter.r, one.adapter.alpha) for name, one in cells.items()} == {
        "static": (9, 18),
        "dynamic": (9, 18),
        "uniform": (3, 6),
    }
    assert {(one.training.learning_rate, one.training.max_steps, one.model.name) for one in cells.values()} == {
        (0.25, 10, "tiny-random")
    }
    assert [(claim.better, claim.than) for claim in config.ablation.claims] == [
        ("dynamic", "static"),
        ("static", "uniform"),
    ]


def test_a_control_of_a_method_keeps_its_other_settings(study, tmp_path):
    folder = study()
    tags = {"irtune.strategy": "lisa"}
    place = trial(folder, "few_seed_0", 0.5, repeats="few", tags=tags)
    method = build(ExperimentConfig, TREE | {"method": "lisa", "training": {"max_steps": 10}}, "x")
    rewrite(place, "params", values={key: str(value) for key, value in dotted_keys(method).items()})
    config = control_of(folder, recommend(str(folder), tmp_path)[1], 2, {})
    cells = {cell.name: with_overrides(config.experiment(), cell.overrides) for cell in cells_of(config)}
    assert {name: one.strategy for name, one in cells.items()} == {
        "dynamic": "lisa",
        "static": "static",
        "uniform": "all",
    }
    beside = [
        beside_selection(dotted_keys(one.model_copy(update={"adapter": method.adapter}))) for one in cells.values()
    ]
    assert beside[0] == beside[1] == beside[2]


def test_what_a_control_cannot_be_made_of_is_said(study, tmp_path, capsys):
    folder = study()
    cell(folder, "few", [0.5, 0.6])
    found = recommend(str(folder), tmp_path)[1]
    with refused(StudyError, "--control 1", "2 seeds"):
        control_of(folder, found, 1, {})
    rewrite(folder / "trials" / "few_seed_0", "params", values={"model.name": "s3://***@x", "seed": "0"} | LACKING)
    hidden = recommend(str(folder), tmp_path)[1]
    with refused(StudyError, "few_seed_0", "model.name=…"):
        control_of(folder, hidden, 2, {})
    assert control_of(folder, hidden, 2, {"model.name": "tiny-random"}).model.name == "tiny-random"
    assert main(["recommend", str(folder), "training.max_steps=3"]) == 2
    assert says(capsys.readouterr().err, "--control SEEDS")
    assert main(["recommend", str(folder), "--plan"]) == 2


LACKING = {"training.max_steps": "10", "adapter.r": "4", "adapter.alpha": "8"}


def rewrite(place, kind, **content):
    file = place / "measured.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    changed = [record | (content if record["kind"] == kind else {}) for record in records]
    # A result is known by how its line begins.
    file.write_text("".join(json.dumps(record, separators=(",", ":")) + "\n" for record in changed))
