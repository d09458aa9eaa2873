"""`engine.precision=auto` becomes what a machine is fast at, before any worker hears of it."""

from pathlib import Path

import pytest

from irtune.config import engine_schema
from irtune.config.load import build, explicit, load
from irtune.config.schema import ExperimentConfig
from irtune.processor import multiplies_bf16


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16\n", True),
        ("flags\t\t: fpu amx_bf16 amx_tile\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("flags\t\t: fpu avx2 bf16x\n", False),
        ("flags\t: avx512_bf16\nflags\t: avx2\n", False),
        ("", False),
    ],
)
def test_the_processor_says_so(tmp_path: Path, text: str, found: bool) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert multiplies_bf16(tmp_path / "cpuinfo") is found
    assert not multiplies_bf16(tmp_path / "none")


@pytest.mark.parametrize(("can", "gpus", "precision"), [(True, 0, "bf16"), (False, 0, "fp32"), (False, 1, "bf16")])
def test_auto_is_decided_where_the_file_is_read(
    monkeypatch: pytest.MonkeyPatch, can: bool, gpus: int, precision: str
) -> None:
    monkeypatch.setattr(engine_schema, "multiplies_bf16", lambda: can)
    config = load(ExperimentConfig, None, {"engine.precision": "auto", "engine.gpus_per_worker": gpus})
    assert config.engine.precision == precision
    # What workers are told is decided already.
    monkeypatch.setattr(engine_schema, "multiplies_bf16", lambda: not can)
    assert build(ExperimentConfig, explicit(config), "worker").engine.precision == precision
    assert load(ExperimentConfig, None).engine.precision == "fp32"
