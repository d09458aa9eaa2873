"""The helper of the tests of messages: a fact that is missing, or is another's part, is not told."""

import re

import pytest
from saying import each_says, refused, says

TEXT = "x.yaml: tune.num_trials: 20 trials, -0.05 of 16\nset tune.sampler=tpe"


@pytest.mark.parametrize(
    "fact",
    ["tune.num_trials:", "20", "-0.05", "of 16", "tune.num_trials: … 20 … 16", "tune.sampler=tpe", re.compile("tpe$")],
)
def test_a_fact_that_is_told(fact):
    assert says(TEXT, fact)
    assert each_says([TEXT, ValueError(TEXT)], (fact,), (fact, "trials"))
    with refused(ValueError, fact):
        raise ValueError(TEXT)


@pytest.mark.parametrize(
    "fact", ["num_trials", "tune.num", "2", "0.05", "05", "1", "16 … 20", "16 … tpe", "tp", re.compile("^set tpe")]
)
def test_a_fact_that_is_not(fact):
    with pytest.raises(AssertionError, match=r"not told:\n(.|\n)*in:\nx\.yaml: tune"):
        says(TEXT, "20", fact)
    with pytest.raises(AssertionError, match="not told"):
        each_says([TEXT, TEXT], ("20",), (fact,))
    with pytest.raises(AssertionError, match="not told"), refused(ValueError, fact):
        raise ValueError(TEXT)


def test_a_text_too_many_or_too_few():
    for texts in ([], ["20", "20"]):
        with pytest.raises(AssertionError, match=f"{len(texts)} texts instead of 1"):
            each_says(texts, ("20",))
