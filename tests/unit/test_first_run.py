"""A newcomer's first sweep has to learn something and save something; what of that needs no training is held here."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from irtune.config.load import load
from irtune.config.sweep_schema import SweepConfig

FILE = Path(__file__).parents[2] / "benchmarks" / "first_run.py"


@pytest.fixture(scope="module")
def first_run():
    spec = importlib.util.spec_from_file_location("first_run", FILE)
    module = sys.modules["first_run"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["first_run"]


@pytest.fixture(scope="module")
def quickstart(first_run):
    return load(SweepConfig, first_run.QUICKSTART)


def test_whatever_the_quickstart_draws_saves_flops(first_run, quickstart):
    budget = quickstart.space["selection.policy.budget"]
    refreshes = min(quickstart.space["selection.reselect_every"].choices)
    assert quickstart.selection.policy.name == "cost_aware"
    # A refresh is a step of all blocks.
    assert (1 - budget.high) * (1 - 1 / refreshes) >= first_run.SAVING_AT_LEAST


def test_the_quickstart_tests_on_enough_examples(first_run, quickstart):
    assert len(quickstart.data.load().splits["test"]) >= first_run.TEST_AT_LEAST


def test_the_baseline_of_the_quickstart_is_trained_once(quickstart):
    # Where training settings are searched, it is trained again at those of the winner.
    assert not [key for key in quickstart.space if key.startswith(("training.", "adapter."))]


GOOD = {"status": 0, "seconds": 500.0, "answer": "Training 9 of 30 …", "saving_flops": 0.2, "trials": (), "printed": ""}


def test_a_good_first_run_passes(first_run):
    found = [first_run.Score("true", 0, 0.6, 1e13, 150.0), first_run.Score("shuffled", 0, 0.2, 1e13, 150.0)]
    assert first_run.wrong_scores(found, 300) == []
    assert first_run.wrong_sweep(first_run.SweepEnd(**GOOD)) == []


@pytest.mark.parametrize(
    ("labels", "macro_f1", "num_test", "message"),
    [
        ("true", 0.49, 300, "0.490"),
        ("true", 0.95, 300, "0.950"),
        ("shuffled", 0.3, 300, "0.300"),
        ("true", 0.6, 100, "100 test examples"),
    ],
)
def test_a_baseline_that_learns_nothing_or_all_at_once_fails(first_run, labels, macro_f1, num_test, message):
    (wrong,) = first_run.wrong_scores([first_run.Score(labels, 0, macro_f1, 1e13, 150.0)], num_test)
    assert message in wrong


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": 1, "printed": "no room"}, "no room"),
        ({"seconds": 601.0}, "601 s"),
        ({"answer": "Nothing was learnt yet: neither trial beats guessing …"}, "nothing that has learnt"),
        ({"answer": ""}, "nothing that has learnt"),
        ({"saving_flops": 0.01}, "1%"),
    ],
)
def test_a_sweep_that_is_slow_or_says_nothing_fails(first_run, change, message):
    (wrong,) = first_run.wrong_sweep(replace(first_run.SweepEnd(**GOOD), **change))
    assert message in wrong
