from collections.abc import Callable

from irtune.analysis.trials import TrialRow, chosen, other_differences, ranked

Trial = Callable[..., TrialRow]


def test_ranked_by_validation_then_flops_and_the_unscored_last(trial: Trial) -> None:
    unscored = trial(name="unscored", validation_score=None)
    no_number = trial(name="no number", validation_score=float("nan"))
    dear = trial(name="dear", validation_score=0.7, flops=2e15)
    cheap = trial(name="cheap", validation_score=0.7, flops=1e15)
    best = trial(name="best", validation_score=0.8)
    order = [row.name for row in ranked([unscored, dear, no_number, cheap, best])]
    assert order == ["best", "cheap", "dear", "unscored", "no number"]


def test_only_a_finished_trial_is_chosen_and_never_by_its_test_score(trial: Trial) -> None:
    pruned = trial(validation_score=0.99, status="pruned")
    lucky = trial(validation_score=0.6, test_score=0.99)
    good = trial(validation_score=0.7, test_score=0.5)
    baseline = trial("all", validation_score=0.75)
    rows = [pruned, lucky, good, baseline]
    assert chosen(rows) is baseline
    assert chosen(rows, baseline=False) is good
    assert chosen(rows, baseline=True) is baseline
    assert chosen([pruned]) is None


def test_a_metric_to_minimise_is_the_objective_not_the_f1(trial: Trial) -> None:
    low_loss = trial(objective=0.2, validation_score=0.5)
    high_loss = trial(objective=0.9, validation_score=0.8)
    assert chosen([high_loss, low_loss], "min") is low_loss


def test_another_method_is_a_difference_in_the_selection(trial: Trial) -> None:
    one, other = trial(params={"method": "lisa", "model.train_head": True}), trial(params={"method": None})
    assert other_differences(one, other) == {"model.train_head": (True, None)}


def test_differences_other_than_in_the_selection(trial: Trial) -> None:
    one = trial(params={"selection.policy.k": 3, "training.learning_rate": 1e-4, "seed": 1, "model.name": "m"})
    other = trial(params={"selection.policy.k": 9, "training.learning_rate": 2e-4, "seed": 2, "model.name": "m"})
    assert other_differences(one, other) == {"training.learning_rate": (1e-4, 2e-4)}
