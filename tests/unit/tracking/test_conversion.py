import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name, _validate_param_name, _validate_tag_name

from irtune.tracking.conversion import cut, name, points


@given(st.text(max_size=300))
def test_mlflow_accepts_any_name(text: str) -> None:
    assert name(text)
    for validate in (_validate_metric_name, _validate_param_name, _validate_tag_name):
        # Raises for a name that MLflow refuses.
        validate(name(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("selection.policy.k", "selection.policy.k"),
        ("eval/accuracy@5", "eval/accuracy_5"),
        ("layer[3]", "layer_3_"),
        ("a//b/", "a/b"),
        ("", "_"),
    ],
)
def test_names_stay_as_they_are_where_they_can(text: str, expected: str) -> None:
    assert name(text) == expected


@given(st.text(), st.integers(60, 80))
def test_a_cut_text_fits_and_says_so(text: str, length: int) -> None:
    shorter = cut(text, length)
    assert len(shorter) <= length
    assert shorter == text or f"({len(text)} characters, cut by irtune)" in shorter


def test_a_choice_of_blocks_becomes_three_curves() -> None:
    record = {
        "kind": "selection",
        "time_ms": 9,
        "step": 20,
        "active": [3, 5],
        "scores": [math.nan] * 8,
        "trainable_parameters": 700,
        "lowest_active": 3,
    }
    assert {(point.key, point.value, point.timestamp, point.step) for point in points(record)} == {
        ("selection/num_active", 2.0, 9, 20),
        ("selection/trainable_parameters", 700.0, 9, 20),
        ("selection/lowest_active", 3.0, 9, 20),
    }
