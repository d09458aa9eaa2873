"""Runs the tests that are skipped where there is no GPU.

    python benchmarks/gpu_tests.py [--out results.json]

Prints a line per test. Exits with 1 if there are none or if one fails; on a CPU all are skipped.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
TAIL = 20
"""Lines of a failure that are kept."""


class OnlyGpuTests:
    """A plugin of pytest: leaves out every test that a CPU can run, and keeps the outcome of the others."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Keep what is skipped for want of a GPU."""
        wanted = [item for item in items if any(needs_gpu(mark) for mark in item.iter_markers("skipif"))]
        config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
        items[:] = wanted

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the outcome of the test itself, or that of a set-up that went wrong."""
        if report.when == "call" or report.outcome != "passed":
            tail = report.longreprtext.splitlines()[-TAIL:] if report.failed else []
            self.found[report.nodeid] = {"outcome": report.outcome, "seconds": report.duration, "tail": tail}


def needs_gpu(mark: pytest.Mark) -> bool:
    """Whether a test is skipped for want of a GPU."""
    return "GPU" in mark.kwargs.get("reason", "")


def files() -> Sequence[str]:
    """The test files that ask for a GPU."""
    return [str(file) for file in (ROOT / "tests").rglob("test_*.py") if "cuda.is_available" in file.read_text()]


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A line per test, as Markdown."""
    lines = ["| test | outcome | seconds |", "|---|---|---|"]
    lines += [f"| {name} | {one['outcome']} | {one['seconds']:.1f} |" for name, one in found.items()]
    return "\n".join(lines)


def main() -> int:
    """Print the table; 1 if a test failed, or if there was none."""
    parser = argparse.ArgumentParser(description="Runs the tests that are skipped where there is no GPU.")
    parser.add_argument("--out", type=Path, help="write outcomes as JSON, too")
    options = parser.parse_args()
    plugin = OnlyGpuTests()
    status = pytest.main([*files(), f"--rootdir={ROOT}", "-p", "no:cacheprovider"], plugins=[plugin])
    if options.out:
        options.out.write_text(json.dumps(plugin.found, indent=1), encoding="utf-8")
    print(table(plugin.found))
    return int(status != pytest.ExitCode.OK or not plugin.found)


if __name__ == "__main__":
    sys.exit(main())
