"""benchmarks/every_method.py holds methods to goals that guessing does not reach."""

import importlib.util
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[3] / "benchmarks" / "every_method.py"
spec = importlib.util.spec_from_file_location("every_method", FILE)
every_method = importlib.util.module_from_spec(spec)
sys.modules["every_method"] = every_method
spec.loader.exec_module(every_method)


def row(name, loss, active=10.0):
    costs = {"cost/mean_active_blocks": active, "cost/trainable_share": active / 30, "cost/mean_step_flops": active}
    costs["cost/mean_lowest_active_block"] = 0.0
    return every_method.Row(name, 2.5, loss, 1.0, 1.0, costs)


def test_losses_worse_than_guessing_pass_nowhere():
    rows = [row("full", 1.94, 30), row("ir", 1.94), row("lisa", 1.915, 2)]
    wrong = every_method.mistakes(rows, [])
    assert [each.split(":")[0] for each in wrong] == ["full", "ir", "lisa"]


@pytest.mark.parametrize(
    ("name", "loss", "active", "passes"),
    [
        ("ir", 1.20, 10, True),
        # Half of the way from ln 5 = 1.609 to 0.9 is 1.255.
        ("ir", 1.26, 10, False),
        # A tenth of it is 1.539.
        ("lisa", 1.53, 2, True),
        ("lisa", 1.55, 2, False),
        ("ir", float("nan"), 10, False),
    ],
)
def test_methods_close_a_part_of_the_way_from_guessing_to_full(name, loss, active, passes):
    wrong = every_method.mistakes([row("full", 0.9, 30), row(name, loss, active)], [])
    assert [each.split(":")[0] for each in wrong] == ([] if passes else [name])
    printed = every_method.table([row(name, loss, active)], row("full", 0.9, 30))
    assert ("| pass |" in printed) == passes
