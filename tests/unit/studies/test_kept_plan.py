"""What a plan says of kept states, and that a forecast counts on them."""

from dataclasses import replace

import numpy as np
from saying import says

from irtune.config.schema import ExperimentConfig
from irtune.studies.forecast import Trial
from irtune.studies.kept_plan import kept_in_words
from irtune.training.cost import CostModel
from irtune.training.prefix_reuse import Reuse
from irtune.training.rehearsal import Pace

COST = CostModel(np.full(4, 100.0), np.full(4, 10.0), head=0.0, attention=0.0, recompute=False)
LENGTHS = {"train": np.full(80, 2**16), "validation": np.full(8, 2**16), "test": np.full(8, 2**16)}


def config(**policy: object) -> ExperimentConfig:
    return ExperimentConfig.model_validate({"selection": {"policy": policy}})


LAST, LAST_TWO, ALL = config(name="static", k=1), config(name="static", k=2), config(name="all")


def test_a_plan_says_what_is_kept_and_what_it_saves():
    evaluated = replace(COST, reuse=Reuse(0, False, True, "", 2**10))
    said = kept_in_words([LAST], evaluated, LENGTHS)
    assert says(said, "enters block 3, 1 GiB of at most 4 … 75% of an evaluation")
    trained = replace(COST, reuse=Reuse(0, True, True, "", 2**10))
    # A step takes 400 forward, 100 or 200 back and 10 or 20 for weights, of which 300 or 200 are saved.
    said = kept_in_words([LAST, LAST_TWO], trained, LENGTHS)
    assert says(said, "blocks 2, 3 (those of 2 kinds of trial), 12 GiB … 62% of an evaluation … 46% of a step")
    assert says(kept_in_words([ALL], trained, LENGTHS), "every block is computed: the policy may train any block")


def test_a_forecast_counts_on_what_is_kept():
    pace = Pace(0.0, 1.0, (1.0, 2.0), (1.0, 2.0), 1, 0.0, 0.0, COST)
    plain = Trial.of(LAST, COST, LENGTHS, pace)
    kept = Trial.of(LAST, replace(COST, reuse=Reuse(0, True, True)), LENGTHS, pace)
    assert kept.evaluation_s == plain.evaluation_s / 4
    assert kept.test_s == plain.test_s
    assert kept.step_flops < plain.step_flops
    assert kept.load_s > plain.load_s == 1.0
    assert Trial.of(ALL, replace(COST, reuse=Reuse(0, True, True)), LENGTHS, pace) == Trial.of(ALL, COST, LENGTHS, pace)
