"""What a person types and reads: exit statuses, one message a mistake, overrides with and without a file."""

import contextlib
import logging
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
import yaml
from saying import each_says, says

from irtune.cli import main
from irtune.config.load import build, load, parse_overrides, with_overrides
from irtune.config.schema import ExperimentConfig
from irtune.config.sweep_schema import SweepConfig
from irtune.importance import SIGNALS
from irtune.importance.aggregations import OverTime, WithinBlock
from irtune.methods import METHODS
from irtune.search.space_checks import check_space
from irtune.selection import POLICIES
from irtune.training.pretrained import materialize
from irtune.training.quiet_loading import QuietLoading

ROOT = Path(__file__).parents[3]
ARGREWRITE = ROOT.parent / "shared" / "data" / "argrewrite-v2"
QUICKSTART = ROOT / "search_spaces" / "quickstart.yaml"
GOOD = {
    "model": {"name": "tiny-random"},
    "adapter": {"r": 4, "alpha": 8},
    "selection": {"policy": {"name": "top_k", "k": 3}},
}
SPACE = {"selection.policy.k": {"type": "int", "low": 1, "high": 5}}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("IRTUNE_HOME", str(folder))
        with QuietLoading():
            materialize(SweepConfig(model={"name": "tiny-random"}, space=SPACE).model)
        return folder


@pytest.fixture(autouse=True)
def _surroundings(home, monkeypatch):
    """The tiny model is made, and what the command line tells libraries does not outlast a test."""
    monkeypatch.setenv("IRTUNE_HOME", str(home))
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setenv("MLFLOW_LOGGING_LEVEL", "WARNING")
    monkeypatch.delenv("COLUMNS", raising=False)
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic", "deepspeed", "ray.tune")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
def write(tmp_path):
    def write(name, tree):
        path = tmp_path / name
        path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree), encoding="utf-8")
        return str(path)

    return write


@pytest.mark.parametrize(
    "tree", [GOOD, GOOD | {"space": SPACE, "tune": {"num_trials": 5}}], ids=["experiment", "sweep"]
)
def test_a_good_file(write, capsys, tree):
    file = write("good.yaml", tree)
    assert main(["validate", file]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == f"{file}: ok"
    assert says(out, f"{file}: … synthetic: 1000 train, 200 validation, 500 test; 5 labels")
    assert says(out, "0 of 1700 examples cut", "0 without their change")
    assert not err


def test_what_is_allowed_but_hardly_meant_is_noted(write, capsys):
    file = write("few.yaml", GOOD | {"space": SPACE, "tune": {"num_trials": 9}})
    assert main(["validate", file]) == 0
    out, err = capsys.readouterr()
    note, *_, verdict = out.splitlines()
    assert says(note, f"{file}: note: tune.num_trials: 9 trials … 5 configurations")
    assert verdict == f"{file}: ok"
    assert not err


def test_every_mistake_of_a_file_has_a_line_of_its_own(write, capsys):
    file = write(
        "bad.yaml",
        {"model": {"nmae": "tiny-random"}, "training": {"max_steps": 0, "learning_rate": "fast"}, "seed": -1},
    )
    assert main(["validate", file]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert each_says(
        sorted(err.splitlines()),
        (
            f"{file}: model.nmae: … unknown key … 'name'?",
            "available: attention, gradient_checkpointing, max_length, name, quantization, revision, train_head",
        ),
        (f"{file}: seed: … equal to 0 … -1",),
        (f"{file}: training.learning_rate: … number … 'fast'",),
        (f"{file}: training.max_steps: … greater than 0 … not 0",),
    )


def test_mistakes_that_only_the_model_shows_are_all_said_at_once(write, capsys):
    file = write(
        "unfit.yaml",
        {
            "model": {"name": "tiny-random"},
            "adapter": {"type": "lorra"},
            "selection": {"policy": {"name": "top_k", "k": 7}},
            "engine": {"deepspeed": {"train_batch_size": 64, "optimizer": {"type": "Adam"}}},
        },
    )
    assert main(["validate", file]) == 2
    lines = [line.removeprefix(f"{file}: ") for line in capsys.readouterr().err.splitlines()]
    assert says(lines[0], "selection.policy.k: 7 … 6")
    assert lines[1].startswith("engine.deepspeed.train_batch_size: set training.micro_batch_size")
    assert lines[2].startswith("engine.deepspeed.optimizer: set training.learning_rate")
    assert says(lines[3], "adapter.type: … 'lorra' … 'lora'?")
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": {"selection.policy.k": {"type": "int", "low": 1, "high": 7}}}, "space.selection.policy.k.high:"),
        (
            {"space": {"importance.within_block": {"type": "categorical", "choices": ["l2", "mean", "sum"]}}},
            "space.importance.within_block.choices: mean, sum … identically",
        ),
        ({"adapter": {"type": "ia3"}}, "importance.tensors: … 'ia3' … 'lora_B'"),
        ({"adapter": {"type": "prompt_tuning", "options": {"num_virtual_tokens": 4}}}, "adapter.type: prompt_tuning"),
        ({"adapter": {"target_modules": ["qproj"]}}, "adapter.target_modules: qproj"),
        ({"model": {"name": "./nowhere"}}, "model.name: './nowhere' … neither a folder nor a hub name"),
    ],
    ids=["k", "aggregations", "signal", "blocks", "targets", "model"],
)
def test_what_does_not_fit_the_model(write, capsys, change, message):
    file = write("unfit.yaml", GOOD | change)
    assert main(["validate", file]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says(line, f"{file}: {message}")


def test_all_files_are_looked_at(write, capsys):
    good, worse = write("good.yaml", GOOD), write("worse.yaml", "seed: [1,\n")
    missing = str(Path(good).with_name("missing.yaml"))
    assert main(["validate", missing, worse, good]) == 2
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == f"{good}: ok"
    assert f"{missing}: cannot be read: No such file or directory" in err.splitlines()
    assert f"{worse}: line 2: " in err


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["data.train_size=5", "training.micro_batch_size=8"], "training.micro_batch_size: 8 on engine.num_workers=1"),
        (["data.max_train=7"], "Set training.micro_batch_size=7 or less"),
        (["engine.num_workers=200"], "training.micro_batch_size: 8 on engine.num_workers=200 … 1600 … 1000"),
        (["model.max_length=2000"], "model.max_length: 2000 … 1024"),
        (["model.max_length=24"], "model.max_length: … 24 tokens … take 16"),
        (["data.instruction=Why was it revised?", "model.max_length=48"], "take 36 … leave 12"),
        (["data.template='{before}'"], "data.template: must hold {before}, {after} … found {before}"),
    ],
)
def test_what_would_fail_in_every_trial_is_refused_before(write, capsys, overrides, told):
    file = write("good.yaml", GOOD | {"space": SPACE, "tune": {"num_trials": 5}})
    assert main(["validate", file, *overrides]) == 2
    assert says(capsys.readouterr().err, told)


def test_a_batch_that_only_some_trials_fill_is_refused(write, capsys):
    space = SPACE | {"training.micro_batch_size": {"type": "categorical", "choices": [8, 64]}}
    space["data.max_train"] = {"type": "int", "low": 50, "high": 500}
    file = write("space.yaml", GOOD | {"space": space, "tune": {"num_trials": 5}})
    assert main(["validate", file]) == 2
    assert says(capsys.readouterr().err, "training.micro_batch_size: 64 … engine.num_workers=1 … 64 … 50")


def test_mistakes_in_settings_and_data_are_said_at_once(write, capsys):
    file = write("two.yaml", GOOD | {"data": {"name": "file", "path": "nowhere.csv"}})
    assert main(["validate", file, "selection.policy.k=40"]) == 2
    err = capsys.readouterr().err
    assert "nowhere.csv" in err
    assert "selection.policy.k" in err


@pytest.mark.parametrize("file", sorted((ROOT / "search_spaces").glob("*.yaml")), ids=lambda file: file.name)
def test_our_own_search_spaces_are_good(file, monkeypatch, capsys, tmp_path):
    """Against the model that is at hand: the default one takes long to make."""
    # What is kept of the stand-in is no fact about it.
    monkeypatch.setenv("IRTUNE_HOME", str(tmp_path))
    from irtune.studies import preflight

    def stand_in(config):
        return materialize(config.model_copy(update={"name": "tiny-random"}))

    monkeypatch.setattr(preflight, "materialize", stand_in)
    monkeypatch.setattr(preflight, "num_blocks", lambda folder: 30)
    monkeypatch.chdir(ROOT)
    overrides = []
    if "argrewrite" in file.name:
        if not ARGREWRITE.is_dir():
            pytest.skip(f"no copy of ArgRewrite at {ARGREWRITE}")
        # Bytes take more room than the tokens of the default model.
        overrides = [f"data.path={ARGREWRITE}", "model.max_length=512"]
    assert main(["validate", str(file), *overrides]) == 0, capsys.readouterr().err


def explained(capsys, *arguments):
    assert main(["methods", *arguments]) == 0
    return capsys.readouterr().out


def test_everything_there_is_to_choose_from_is_listed(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    text = explained(capsys)
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert {*METHODS, *POLICIES, *SIGNALS, *get_args(WithinBlock), *get_args(OverTime)} <= rows.keys()
    # In the words of the docstring, with defaults from the fields and a source.
    assert says(rows["random"], "k blocks uniformly")
    assert "percentile=50.0" in text
    assert "arXiv 2405.18380" in text
    assert rows["lisa"].rstrip().endswith("  k=2, reselect_every=20")


def test_aggregations_that_rank_alike_say_so(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    rows = [line.split() for line in explained(capsys).splitlines() if " importance.within_block " in line]
    like = {row[0]: row[-1] for row in rows}
    assert (like["l2"], like["rms"], like["sum"], like["mean"]) == ("rms", "l2", "mean", "sum")
    assert like["max"] == "norms"


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_is_explained_with_settings_to_paste_and_a_command_to_run(capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "60")
    text = explained(capsys, name)
    pasted, _, command = text.partition("\nSettings")[2].partition("\nRun it")
    config = build(ExperimentConfig, yaml.safe_load(pasted), "pasted")
    assert config == with_overrides(ExperimentConfig(method=name), {"method": None})
    for option in type(config.selection.policy).model_fields:
        assert option == "name" or f"selection.policy.{option} " in text
    irtune, verb, file, *overrides = shlex.split(command.splitlines()[1])
    assert (irtune, verb) == ("irtune", "sweep")
    sweep = load(SweepConfig, ROOT / file, parse_overrides(overrides))
    assert sweep.method == name
    assert check_space(sweep, num_blocks=30) == []


@pytest.mark.parametrize("name", sorted({*POLICIES, *SIGNALS, *get_args(WithinBlock)} - {*METHODS}))
def test_parts_of_methods_are_explained_likewise(capsys, name):
    text = explained(capsys, name)
    for part in text.split("\nSettings")[1:]:
        pasted, _, command = part.partition("\nRun it")
        assert name in str(yaml.safe_load(pasted))
        build(ExperimentConfig, yaml.safe_load(pasted), "pasted")
        sweep = load(SweepConfig, QUICKSTART, parse_overrides(shlex.split(command.splitlines()[1])[3:]))
        assert check_space(sweep, num_blocks=30) == []


def test_an_explanation_has_source_deviations_and_options(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = explained(capsys, "random")
    assert "\n  Source: Pan et al., LISA (arXiv 2403.17919).  " in text
    assert says(text, "Deviation: … embeddings and head")
    assert "Methods made of it: lisa, lisa_blocks_only, rst" in text
    (option,) = (line.split("  ") for line in text.splitlines() if "selection.policy.k " in line)
    assert [cell.strip() for cell in option if cell.strip()] == [
        "selection.policy.k",
        "required",
        "whole number or number",
        "blocks that train: a count, or a fraction of all",
    ]
    here = next(line for line in explained(capsys, "ir_authors").splitlines() if "importance.frozen_blocks" in line)
    assert here.split()[1:3] == ["stale", "probe"]


def test_one_name_may_mean_several_things(capsys):
    text = explained(capsys, "mean")
    assert "importance.within_block=mean" in text
    assert "importance.over_time=mean" in text
    text = explained(capsys, "last")
    assert "method=last" in text
    assert "importance.over_time=last" in text


def test_an_unknown_name(capsys):
    assert main(["methods", "lsia"]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert says(err, "error: … 'lsia' … 'lisa'?")


@pytest.mark.parametrize("arguments", [[], ["ir"]])
def test_listing_methods_loads_nothing_heavy(arguments):
    heavy = {"torch", "ray", "mlflow", "optuna", "transformers", "pandas"}
    check = f"import sys; from irtune.cli import main; main(sys.argv[1:]); assert not {heavy} & set(sys.modules)"
    command = [sys.executable, "-c", check, "methods", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


class Sweeps:
    """Takes the place of what runs sweeps, and notes what it is asked for."""

    def __init__(self, monkeypatch):
        self.asked = []
        self.has_succeeded = True
        self.error = None
        monkeypatch.setitem(sys.modules, "irtune.studies.sweep", SimpleNamespace(SweepRunner=lambda: self))
        monkeypatch.setattr("irtune.training.rehearsal.Rehearsal", contextlib.nullcontext)

    def succeeded(self, found):
        assert found == "found"
        return self.has_succeeded

    def run(self, config, source, console, resume, rehearsal):
        self.asked.append((config, source))
        self.resume = resume
        if self.error:
            raise self.error
        return "found"


@pytest.fixture
def sweeps(monkeypatch):
    monkeypatch.chdir(ROOT)
    return Sweeps(monkeypatch)


def test_a_sweep_of_a_file_with_overrides(sweeps, write):
    file = write("sweep.yaml", GOOD | {"space": SPACE})
    overrides = ["tune.num_trials=3", "training.learning_rate=1e-3", "space.selection.policy.k.high=2"]
    assert main(["sweep", file, *overrides]) == 0
    ((config, source),) = sweeps.asked
    assert isinstance(config, SweepConfig)
    assert source == file
    assert config.tune.num_trials == 3
    assert config.training.learning_rate == 1e-3
    assert config.space["selection.policy.k"].high == 2
    assert config.model.name == "tiny-random"


def test_without_a_file_the_quickstart_is_run(sweeps):
    assert main(["sweep"]) == 0
    ((config, source),) = sweeps.asked
    assert (ROOT / source).samefile(QUICKSTART)
    assert config.name == yaml.safe_load(QUICKSTART.read_text())["name"]


def test_overrides_without_a_file_are_for_the_quickstart(sweeps):
    overrides = ["tracking.uri=http://tracking.example.org:5000", "model.name=tiny-random", "storage=/shared//results/"]
    for first in range(3):
        assert main(["sweep", *overrides[first:], *overrides[:first]]) == 0
    for config, source in sweeps.asked:
        assert (ROOT / source).samefile(QUICKSTART)
        # The first one is read like the others.
        assert config.tracking.uri == "http://tracking.example.org:5000"
        assert config.model.name == "tiny-random"
        assert config.storage == "/shared//results/"


@pytest.mark.parametrize(("flag", "resume"), [("--resume", "always"), ("--new", "never"), (None, "ask")])
def test_whether_to_go_on_with_an_earlier_sweep_is_said_anywhere(sweeps, write, flag, resume):
    settings = [write("sweep.yaml", GOOD | {"space": SPACE}), "tune.num_trials=3", "seed=7"]
    for place in range(len(settings) + 1):
        assert main(["sweep", *settings[:place], *([flag] if flag else []), *settings[place:]]) == 0
        ((config, _),) = sweeps.asked
        assert (config.tune.num_trials, config.seed, sweeps.resume) == (3, 7, resume)
        sweeps.asked.clear()


def test_an_unknown_option_is_no_setting(sweeps, capsys):
    for arguments in (["sweep", "--fast", "seed=7"], ["validate", str(QUICKSTART), "--fast"]):
        with pytest.raises(SystemExit):
            main(arguments)
        assert "--fast" in capsys.readouterr().err
    assert not sweeps.asked


def test_a_file_with_an_equals_sign_in_its_name_is_a_file(sweeps, write):
    file = write("k=3.yaml", GOOD | {"space": SPACE})
    assert main(["sweep", file]) == 0
    assert sweeps.asked[0][1] == file


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fast"], "error: command line: 'fast' … dotted.key=value"),
        (["tune.num_trails=3"], "tune.num_trails: … unknown … 'num_trials'?"),
        (["tune.num_trials=many"], "tune.num_trials: … whole number … 'many'"),
        (["seed.x=1"], "error: overrides: seed.x: … not a section"),
    ],
)
def test_overrides_that_mean_nothing(sweeps, write, capsys, arguments, message):
    file = write("sweep.yaml", GOOD | {"space": SPACE, "seed": 0})
    assert main(["sweep", file, *arguments]) == 2
    assert says(capsys.readouterr().err, message)
    assert not sweeps.asked


def test_a_single_run_is_no_sweep(sweeps, write, capsys):
    file = write("experiment.yaml", GOOD)
    assert main(["sweep", file]) == 2
    assert says(capsys.readouterr().err, f"error: {file}: space: is required")


def test_a_sweep_in_which_no_trial_finished(sweeps, write):
    sweeps.has_succeeded = False
    assert main(["sweep", write("sweep.yaml", GOOD | {"space": SPACE})]) == 1


@pytest.mark.parametrize("error", [ConnectionError("no cluster at 10.0.0.1"), ValueError("no rows")])
def test_trouble_from_outside_is_a_message(sweeps, write, capsys, error):
    sweeps.error = error
    assert main(["sweep", write("sweep.yaml", GOOD | {"space": SPACE})]) == 2
    assert capsys.readouterr().err == f"error: {error}\n"


def test_a_bug_of_ours_is_no_message(sweeps, write):
    sweeps.error = KeyError("bug")
    with pytest.raises(KeyError):
        main(["sweep", write("sweep.yaml", GOOD | {"space": SPACE})])


@pytest.mark.parametrize("arguments", [[], ["swep"], ["validate"]])
def test_commands_that_are_none(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: irtune" in capsys.readouterr().err
