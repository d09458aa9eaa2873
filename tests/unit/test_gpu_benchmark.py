"""A run on a GPU machine is short and cannot be repeated: whatever goes wrong in a section, the others are kept."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "gpu.py"

WRITES = "import pathlib, sys; pathlib.Path(sys.argv[sys.argv.index('--out') + 1]).write_text('[1]')"


@pytest.fixture(scope="module")
def gpu():
    spec = importlib.util.spec_from_file_location("gpu_benchmark", FILE)
    module = sys.modules["gpu_benchmark"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gpu_benchmark"]


def test_a_section_that_fails_or_hangs_stops_no_other(gpu, tmp_path, capsys):
    def section(name, code, **options):
        script = tmp_path / f"{name}.py"
        script.write_text(code)
        return gpu.Section(name, (str(script),), options.pop("limit_s", 30), **options)

    chosen = [
        section("absent", "", skipped="no reason"),
        section("fails", "raise ValueError('out of luck')", is_timed=False),
        section("hangs", f"{WRITES}; import time; time.sleep(60)", limit_s=2),
        section("passes", f"{WRITES}; print('a table')"),
    ]
    out = tmp_path / "gpu.json"
    assert not gpu.run_all(chosen, 60, out, {"sections": {}})

    found = json.loads(out.read_text())["sections"]
    assert {name: one["status"] for name, one in found.items()} == {
        "absent": "skipped: no reason",
        "fails": "failed with status 1",
        "hangs": "ended after 2 s",
        "passes": "passed",
    }
    assert found["fails"]["errors"][-1] == "ValueError: out of luck"
    # What a section had written when it was ended is kept.
    assert found["hangs"]["found"] == found["passes"]["found"] == [1]
    assert "a table" in capsys.readouterr().out


def test_what_may_be_said_of_sections(gpu):
    on_gpu, on_cpu = gpu.sections("cuda", "smollm2-135m"), gpu.sections("cpu", "tiny")
    assert [section.name for section in on_gpu] == [section.name for section in on_cpu]
    assert not any(section.skipped for section in on_gpu)
    for section in on_gpu:
        assert (FILE.parent / section.command[0]).is_file(), section
