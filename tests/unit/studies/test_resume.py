"""Which earlier sweep is gone on with, and which is not."""

import io
import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from rich.console import Console
from saying import refused, says

from irtune.config.ablation_schema import AblationConfig
from irtune.config.load import ConfigError, build
from irtune.config.sweep_schema import SweepConfig
from irtune.studies.resume import IDENTITY, command_line, new_folder, sweep_to_resume, write_identity
from irtune.tracking.address import ADDRESS
from irtune.tracking.heartbeat import Heartbeat
from irtune.tracking.outbox import write_address

DATA = "5f3c"


def sweep(storage, **settings):
    space = {"selection.policy.k": {"type": "int", "low": 1, "high": 5}}
    tree = {"name": "tiny", "storage": str(storage), "selection": {"policy": {"name": "top_k", "k": 3}}, "space": space}
    return build(SweepConfig, tree | settings, "test")


@pytest.fixture
def begun(tmp_path):
    """Makes the folder of an earlier sweep."""

    def begin(called="tiny-20260101-120000", *, complete=False, fingerprint=DATA, **settings):
        folder = tmp_path / called
        write_identity(folder, sweep(tmp_path, **settings), fingerprint, complete=complete)
        write_address(folder, "sqlite:////somewhere/mlflow.db", "irtune")
        return folder

    return begin


def choose(config, resume, *, answer=None, fingerprint=DATA):
    """The chosen folder, and what was said; ``answer`` is what somebody at a terminal types."""
    said = io.StringIO()
    console = Console(file=said, width=400, force_terminal=answer is not None)
    console.input = lambda prompt: (said.write(prompt), answer)[1]
    folder = sweep_to_resume(config, fingerprint, resume, source="file", console=console)
    return folder, said.getvalue()


def test_without_an_earlier_sweep_a_new_one_begins(tmp_path):
    assert choose(sweep(tmp_path), "ask") == (None, "")
    with refused(ConfigError, "file: name: … 'tiny'", "leave out --resume"):
        choose(sweep(tmp_path), "always")


def test_one_that_did_not_come_to_its_end_is_gone_on_with(tmp_path, begun):
    folder = begun()
    assert choose(sweep(tmp_path), "always")[0] == folder
    chosen, said = choose(sweep(tmp_path), "ask")
    assert chosen == folder
    assert says(said, "going on … tiny-20260101-120000", "--new")
    assert choose(sweep(tmp_path), "never") == (None, "")


def test_a_damaged_one_is_left_alone_unless_it_is_asked_for(tmp_path, begun):
    whole, damaged = begun("tiny-20260101-120000"), begun("tiny-20260102-120000")
    (damaged / IDENTITY).write_text('{"settings": {}, "complete": false}')
    chosen, said = choose(sweep(tmp_path), "ask")
    assert chosen == whole
    assert "note: tiny-20260102-120000 is left alone: " in said
    assert says(said, "sweep.json: … damaged … data_fingerprint")
    with pytest.raises(ValueError, match=r"tiny-20260102-120000/sweep\.json: is damaged"):
        choose(sweep(tmp_path), "always")


@pytest.mark.parametrize(("answer", "goes_on"), [("", True), ("y", True), ("n", False), ("no", False)])
def test_at_a_terminal_somebody_is_asked(tmp_path, begun, answer, goes_on):
    folder = begun()
    chosen, said = choose(sweep(tmp_path), "ask", answer=answer)
    assert chosen == (folder if goes_on else None)
    assert says(said, "tiny-20260101-120000 did not come to its end", "[Y/n]")


def test_a_complete_one_is_only_gone_on_with_on_demand(tmp_path, begun):
    folder = begun(complete=True)
    assert choose(sweep(tmp_path), "ask") == (None, "")
    more_trials = sweep(tmp_path, tune={"num_trials": 99})
    assert choose(more_trials, "always")[0] == folder


def test_of_several_it_is_the_newest_that_did_not_come_to_its_end(tmp_path, begun):
    begun("tiny-20260101-120000")
    newest = begun("tiny-20260102-120000")
    begun("tiny-20260103-120000", complete=True)
    # Another sweep's name may begin like this one's.
    begun("tiny-too-20260104-120000", name="tiny-too")
    assert choose(sweep(tmp_path), "always")[0] == newest


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        ({"training": {"learning_rate": 1e-3}}, "training.learning_rate: 0.0002 before, 0.001 now"),
        ({"seed": 7}, "seed: 0 before, 7 now"),
        (
            {"space": {"selection.policy.k": {"type": "int", "low": 1, "high": 9}}},
            "space.selection.policy.k.high: 5.0 before, 9.0 now",
        ),
        (
            {"space": {"training.learning_rate": {"type": "float", "low": 1e-5, "high": 1e-3}}},
            "space.selection.policy.k.type: 'int' before, absent now",
        ),
    ],
)
def test_another_sweep_is_refused_with_the_difference(tmp_path, begun, settings, difference):
    begun()
    with pytest.raises(ConfigError) as caught:
        choose(sweep(tmp_path, **settings), "always")
    assert difference in str(caught.value)
    assert says(str(caught.value), "tiny-20260101-120000 cannot be resumed", "--new")
    chosen, said = choose(sweep(tmp_path, **settings), "ask")
    assert chosen is None
    assert difference in said


def test_other_data_is_another_sweep(tmp_path, begun):
    begun()
    with pytest.raises(ConfigError, match="data: other examples than before"):
        choose(sweep(tmp_path), "always", fingerprint="other")


def test_the_same_data_may_lie_elsewhere(tmp_path, begun):
    folder = begun(data={"name": "file", "path": "/there/train.csv", "test_path": "/there/test.csv"})
    here = {"name": "file", "path": ["/here/a.csv", "/here/b.csv"], "test_path": "/here/test.csv"}
    moved = sweep(tmp_path, data=here)
    assert choose(moved, "always")[0] == folder
    with refused(ConfigError, "data: other examples than before"):
        choose(moved, "always", fingerprint="other")
    with refused(ConfigError, "data.text_column: None before, 'text' now"):
        choose(sweep(tmp_path, data=here | {"text_column": "text"}), "always")


def test_the_corpora_of_an_ablation_may_lie_elsewhere(tmp_path):
    def ablation(place):
        cells = {"all": {"selection.policy.name": "all"}, "lisa": {"method": "lisa"}}
        corpora = {name: {"name": "file", "path": f"{place}/{name}.csv"} for name in ("a", "b")}
        tree = {"name": "tiny", "storage": str(tmp_path), "ablation": {"cells": cells, "corpora": corpora}}
        return build(AblationConfig, tree, "test")

    folder = tmp_path / "tiny-20260101-120000"
    write_identity(folder, ablation("/there"), "a-b")
    assert choose(ablation("/here"), "always", fingerprint="a-b")[0] == folder
    with refused(ConfigError, "data: other examples"):
        choose(ablation("/here"), "always", fingerprint="b-a")


def test_what_mlflow_has_nothing_of_may_go_to_another_store(tmp_path, begun):
    folder = begun(tracking={"uri": "https://there.example", "experiment": "theirs"})
    here = sweep(tmp_path, tracking={"uri": "https://here.example", "experiment": "ours"})
    with refused(ConfigError, "tracking.uri: 'https://there.example' before", "tracking.experiment: 'theirs' before"):
        choose(here, "always")
    # As it arrives on another machine: where runs belong stays behind.
    (folder / ADDRESS).unlink()
    assert choose(here, "always")[0] == folder


def test_how_many_trials_run_and_where_may_change(tmp_path, begun):
    folder = begun(tune={"num_trials": 5})
    moved = sweep(tmp_path, tune={"num_trials": 50, "max_concurrent_trials": 1, "max_failures": 3, "warm_start": "/x"})
    assert choose(moved, "always")[0] == folder


def test_finalists_may_be_asked_for_later_and_on_more_seeds(tmp_path, begun):
    folder = begun()
    assert choose(sweep(tmp_path, tune={"finalists": {"top": 1}}), "always")[0] == folder
    folder = begun("tiny-20260102-120000", tune={"finalists": {"top": 1, "seeds": 2}})
    assert choose(sweep(tmp_path, tune={"finalists": {"top": 2, "seeds": 3}}), "always")[0] == folder


def test_one_that_still_runs_is_left_alone(tmp_path, begun):
    folder = begun()
    with Heartbeat(folder):
        assert choose(sweep(tmp_path), "ask") == (None, "")
        with pytest.raises(ConfigError, match="tiny-20260101-120000 is running"):
            choose(sweep(tmp_path), "always")


def test_no_secret_is_written_down(tmp_path, begun):
    address = {"tracking": {"uri": "https://user:secret@example.org"}}
    folder = begun(**address)
    assert "secret" not in (folder / IDENTITY).read_text()
    assert choose(sweep(tmp_path, **address), "always")[0] == folder
    # A login may change, and be left to the environment; the address may not.
    for uri in ("https://another:password@example.org", "https://example.org"):
        assert choose(sweep(tmp_path, tracking={"uri": uri}), "always")[0] == folder
    with pytest.raises(ConfigError, match=r"tracking\.uri: 'https://example\.org' before, 'https://example\.com' now"):
        choose(sweep(tmp_path, tracking={"uri": "https://user:secret@example.com"}), "always")


def test_another_users_sweep_is_gone_on_with_only_on_demand(tmp_path, begun, monkeypatch):
    folder = begun()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    chosen, said = choose(sweep(tmp_path), "ask")
    assert chosen is None
    assert "is left alone: it belongs to another user" in said
    assert choose(sweep(tmp_path), "always")[0] == folder


def test_what_is_kept_of_adapters_may_change(tmp_path, begun):
    folder = begun(tracking={"keep_adapters": "all", "upload_adapters": "none"})
    assert choose(sweep(tmp_path), "always")[0] == folder


def test_an_identity_is_json_that_people_can_read(begun):
    assert json.loads((begun() / IDENTITY).read_text())["settings"]["selection.policy.k"] == 3


def test_of_two_that_begin_in_one_second_each_has_a_folder_that_is_known_later(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: new_folder(sweep(tmp_path)), range(8)))
    assert len(set(folders)) == 8
    for folder in folders:
        write_identity(folder, sweep(tmp_path), DATA)
    assert choose(sweep(tmp_path), "always")[0] == max(folders)


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["irtune", "sweep", "a b.yaml", "--new"], "irtune sweep 'a b.yaml' --resume"),
        (["jobs/sweep.py", "tune.num_trials=3", "--resume"], "python jobs/sweep.py tune.num_trials=3 --resume"),
    ],
)
def test_the_command_that_goes_on_is_the_one_that_began(monkeypatch, arguments, command):
    monkeypatch.setattr("sys.argv", arguments)
    assert command_line("--resume") == command


def test_more_time_may_be_given(tmp_path, begun):
    begun(tune={"time_budget_s": 60})
    assert choose(sweep(tmp_path, tune={"time_budget_s": 3600}), "always")[0] is not None


def as_a_former_version_left_it(folder):
    """A sweep's folder of before: its identity names no format, and a trial's facts lie in files of other names."""
    identity = json.loads((folder / IDENTITY).read_text())
    del identity["format"]
    (folder / IDENTITY).write_text(json.dumps(identity))
    trial = folder / "trials" / "baseline"
    (trial / "spool").mkdir(parents=True)
    (trial / "spool" / "attempt_0.jsonl").write_text('{"kind":"resumed","time_ms":1,"step":0}\n')
    (trial / "run.json").write_text('{"key": "k", "name": "n", "tags": {}, "start_time_ms": 1, "spool": "spool"}')
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_sweep_of_a_former_version_is_refused_in_one_line_and_not_touched(tmp_path, begun):
    folder = begun()
    before = as_a_former_version_left_it(folder)
    with pytest.raises(ConfigError) as caught:
        choose(sweep(tmp_path), "always")
    (line,) = str(caught.value).splitlines()
    assert all(said in line for said in (folder.name, "format 1", "--new"))
    chosen, said = choose(sweep(tmp_path), "ask")
    assert chosen is None
    assert "format 1" in said
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_a_sweep_of_a_former_version_stands_in_the_way_of_no_other(tmp_path, begun):
    as_a_former_version_left_it(begun("tiny-20260102-120000"))
    ours = begun("tiny-20260101-120000", complete=True)
    assert choose(sweep(tmp_path), "always")[0] == ours
    assert choose(sweep(tmp_path), "ask") == (None, "")
