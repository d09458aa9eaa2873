"""`irtune settings` lists every setting that the schema has, with its type, default and meaning."""

from io import StringIO

import pytest
from rich.console import Console
from saying import says

from irtune.cli import main
from irtune.config.ablation_schema import AblationConfig
from irtune.config.load import dotted_keys
from irtune.config.schema import VARIANTS
from irtune.config.settings_view import _sections, settings
from irtune.config.sweep_schema import SweepConfig


def shown(section: str | None = None) -> list[list[str]]:
    """The cells of all lines, folded ones put together again."""
    return [
        [cell.plain for cell in row]
        for table in settings(section)
        for row in zip(*(column._cells for column in table.columns), strict=True)
    ]


def test_every_key_of_a_configuration_is_listed_once_with_its_default() -> None:
    config = SweepConfig(space={"seed": {"type": "int", "low": 1, "high": 2}})
    listed = {row[0]: row for row in shown()}
    assert len(listed) == len(shown())
    keys = {key for key in dotted_keys(config) if not key.startswith("space.")}
    assert keys - {"tune.finalists"} <= set(listed)
    for key, value in (("training.max_steps", "200"), ("metric", "f1_macro"), ("tune.scheduler.grace_steps", "10")):
        assert listed[key][2] == value
    assert listed["training.adam_beta1"][1] == "number, at least 0, below 1"
    assert listed["training.lr_schedule"][1] == "linear | cosine | constant | constant_with_warmup"
    assert listed["space"][2] == "required"


def test_every_setting_says_what_it_means() -> None:
    variants = [f"{section}.{name}" for section, one in VARIANTS.items() for name in one.registered]
    assert [row[0] for part in [None, *variants] for row in shown(part) if len(row[3]) < 8 or "value" in row[1]] == []


def test_a_section_a_variant_or_one_setting() -> None:
    assert {row[0].partition(".")[0] for row in shown("training")} == {"training"}
    assert {"tune.seed", "tune.finalists.top", "tune.scheduler.name"} <= {row[0] for row in shown("tune")}
    names = [row[2] for row in shown("selection.policy") if row[0] == "selection.policy.name"]
    assert names == list(VARIANTS["selection.policy"].registered)
    assert [row[0] for row in shown("data.file.path")] == ["data.path"]
    assert [row[:3] for row in shown("selection.policy.top_k.k")] == [
        ["selection.policy.k", "whole number or number", "required"]
    ]
    assert len({*dict(_sections(SweepConfig, "")), *dict(_sections(AblationConfig, ""))}) == len(settings())
    assert {"ablation.seeds", "ablation.tuning.num_trials"} <= {row[0] for row in shown("ablation")}


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["settings", "tune.finalists"]) == 0
    assert "tune.finalists.seeds  whole number, at least 2  5" in capsys.readouterr().out
    assert main(["settings", "trainig"]) == 2
    told = capsys.readouterr().err
    assert says(told, "'trainig' … 'training'?", "sections:")
    console = Console(file=StringIO(), width=60)
    for table in settings("engine"):
        console.print(table)
    assert "engine.zero_stage" in console.file.getvalue()
