import re
from collections.abc import Callable

import numpy as np
import pytest

from irtune.analysis.answer import Answer, answer_sweep
from irtune.analysis.trials import TrialRow

Trial = Callable[..., TrialRow]


def caveats(answer: Answer) -> str:
    return "\n".join(answer.caveats)


def test_better_than_the_baseline_names_all_that_a_user_decides_on(trial: Trial) -> None:
    selective, baseline = trial(num_wrong=80), trial("all", num_wrong=160)
    answer = answer_sweep([baseline, selective])
    assert answer.sentence.startswith(
        "Training 3 of 12 blocks at a time (strategy top_k, chosen anew every 20 steps, scores aggregated by l2) "
        "is better than training all 12: test macro-F1 0.800 against 0.600, a difference of +0.200 (95% interval +0.1"
    )
    assert answer.sentence.endswith(
        "It saves 30% of the training time, 38% of the FLOPs and 75% of the trainable parameters."
    )
    assert answer.best is answer.selective is selective
    assert answer.baseline is baseline
    assert answer.interval is not None
    assert answer.interval.difference == pytest.approx(0.2)
    assert (answer.saving_seconds, answer.saving_flops) == pytest.approx((0.3, 0.375))
    assert answer.saving_trainable == pytest.approx(0.75)


def test_indistinguishable_when_the_interval_contains_zero(trial: Trial) -> None:
    answer = answer_sweep([trial("all", num_wrong=101), trial(num_wrong=100)])
    assert answer.interval is not None
    # They differ in a single example, which a third of the resamples lack: the interval reaches 0 and not below.
    assert answer.interval.low == 0.0 < answer.interval.high
    assert "is indistinguishable in a sweep of this size from training all 12" in answer.sentence


def test_worse_than_the_baseline_which_was_itself_chosen(trial: Trial) -> None:
    selective, baseline = trial(num_wrong=200), trial("all", num_wrong=100)
    answer = answer_sweep([selective, trial(num_wrong=300), baseline])
    assert answer.best is baseline
    assert answer.selective is selective
    assert answer.sentence.startswith(
        "No trial that selects blocks beat the baseline, all 12 blocks, on validation (macro-F1 0.750 against 0.500 "
        "for the best of them). That one all the same: training 3 of 12 blocks at a time"
    )
    assert "is worse than training all 12: test macro-F1 0.500 against 0.750, a difference of -0.250" in answer.sentence


def test_trials_no_better_than_guessing_are_not_praised(trial: Trial) -> None:
    warning = "Nothing was learnt yet: neither trial beats guessing (macro-F1 0.250"
    assert answer_sweep([trial("all", num_wrong=380), trial(num_wrong=330)]).sentence.startswith(warning)
    assert "learnt" not in answer_sweep([trial("all", num_wrong=380), trial(num_wrong=100)]).sentence


def test_a_score_above_guessing_by_luck_beats_nothing(trial: Trial) -> None:
    answer = answer_sweep([trial("all", num_wrong=300), trial(num_wrong=296)])
    assert answer.sentence.startswith("Nothing is shown to be learnt: neither trial beats guessing (macro-F1 0.250")
    assert "test macro-F1 0.260, 95% interval 0.2" in answer.sentence
    assert "beats it" not in caveats(answer)


def test_a_trial_that_beats_guessing_is_told_from_one_that_does_not(trial: Trial) -> None:
    answer = answer_sweep([trial("all", num_wrong=100), trial(num_wrong=300)])
    assert "Guessing reaches a test macro-F1 of 0.250 at best" in caveats(answer)
    assert "the selective trial does not beat it: test macro-F1 0.250, 95% interval 0.2" in caveats(answer)
    assert "the baseline beats it: test macro-F1 0.750, 95% interval 0.7" in caveats(answer)


def test_the_largest_class_of_an_uneven_test_set_is_no_learning(trial: Trial) -> None:
    labels = np.array([0] * 360 + [1] * 20 + [2] * 20)
    constant = {"test_labels": labels, "test_predictions": np.zeros(400, dtype=int), "test_f1": 2 * 0.9 / 1.9 / 3}
    # Above a uniform guess over four classes, 1/4, and below a third.
    assert constant["test_f1"] > 0.25
    answer = answer_sweep([trial("all", **constant), trial(**constant)], num_classes=4)
    assert answer.sentence.startswith("Nothing was learnt yet: neither trial beats guessing (macro-F1 0.333")


def test_a_single_trial_is_held_against_guessing_too(trial: Trial) -> None:
    assert answer_sweep([trial("all", num_wrong=300)]).sentence.startswith("Nothing was learnt yet: the baseline does")
    without = {"test_predictions": None, "test_f1": 0.2}
    assert answer_sweep([trial(**without)]).sentence.startswith("Nothing was learnt yet: the selective trial does not")


def test_a_tie_on_validation_goes_to_fewer_flops(trial: Trial) -> None:
    selective = trial()
    assert answer_sweep([trial("all"), selective]).best is selective


def test_what_costs_more_is_not_called_a_saving(trial: Trial) -> None:
    dear = trial(seconds=1250.0, flops=4.0e15)
    assert answer_sweep([trial("all"), dear]).sentence.endswith(
        "It saves 75% of the trainable parameters, but costs 25% more training time, takes the same FLOPs."
    )
    unmeasured = trial(seconds=None, flops=None, trainable_share=None)
    assert not re.search(r"saves|costs|takes", answer_sweep([trial("all"), unmeasured]).sentence)


def test_no_selective_trial_finished(trial: Trial) -> None:
    rows = [trial("all"), trial(status="pruned", test_f1=None), trial(status="failed", validation_f1=None)]
    answer = answer_sweep(rows)
    assert answer.sentence == (
        "No trial that selects blocks finished (1 failed, 1 pruned), so this sweep cannot say how many blocks are "
        "worth training. The baseline, all 12 blocks, reaches a test macro-F1 of 0.750."
    )
    assert answer.interval is answer.selective is answer.saving_flops is None
    assert answer_sweep(rows[:1]).sentence.startswith("No trial selects blocks, so")


def test_the_baseline_did_not_finish_or_was_not_run(trial: Trial) -> None:
    selective = trial(num_wrong=100)
    failed = answer_sweep([selective, trial("all", status="failed", validation_f1=None)])
    assert failed.best is selective
    assert "with a test macro-F1 of 0.750. The baseline, all 12 blocks, did not finish (1 failed)" in failed.sentence
    assert "is not known" in failed.sentence
    assert "The baseline, all 12 blocks, is not part of this sweep" in answer_sweep([selective]).sentence


def test_nothing_finished(trial: Trial) -> None:
    answer = answer_sweep([trial(status="killed", validation_f1=None)])
    assert answer.best is None
    assert answer.sentence.endswith("No baseline (strategy all) finished either.")
    assert "Trials that did not finish: 1 killed, of 1." in caveats(answer)
    assert answer_sweep([]).best is None


def test_without_predictions_there_is_a_difference_but_no_verdict(trial: Trial) -> None:
    answer = answer_sweep([trial("all", test_f1=0.5), trial(test_predictions=None, test_f1=0.625)])
    assert answer.interval is None
    assert "cannot be compared statistically with training all 12" in answer.sentence
    assert "a difference of +0.125 (no interval: predictions of both on one test set are missing)" in answer.sentence


def test_predictions_on_another_test_set_are_not_compared(trial: Trial) -> None:
    answer = answer_sweep([trial("all"), trial(test_labels=np.zeros(400, dtype=int))])
    assert answer.interval is None
    assert "tested on different examples" in caveats(answer)


def test_a_policy_that_chooses_its_own_number_and_one_that_chooses_once(trial: Trial) -> None:
    own = trial("variance_split", mean_active=4.26, k=None, reselect_every=1)
    assert "Training on average 4.3 of 12 blocks at a time (strategy variance_split, chosen anew every step" in (
        answer_sweep([trial("all"), own]).sentence
    )
    once = trial("last", reselect_every=0, within_block=None)
    assert "(strategy last, chosen once) is" in answer_sweep([trial("all"), once]).sentence


def test_caveats_of_an_ordinary_sweep(trial: Trial) -> None:
    rows = [trial("all"), trial(), trial(k=5, num_wrong=200), trial(status="pruned"), trial(status="pruned")]
    text = caveats(answer_sweep(rows, num_validation=300, metric="macro-F1"))
    assert "differences between seeds are not measured by the interval" in text
    assert "The test set has 400 examples" in text
    assert "Finished: 2 selective, 1 baseline. The best of each kind was picked by macro-F1 on 300 validation" in text
    assert "Trials that did not finish: 2 pruned, of 5." in text
    assert "interrupted" not in text


def test_interrupted_trials_are_said(trial: Trial) -> None:
    text = caveats(answer_sweep([trial("all"), trial(attempts=3), trial(k=5)]))
    assert "Trials that were interrupted, and went on from their last checkpoint: 1." in text
    assert "Time on a shared machine is noisy; FLOPs are the dependable figure" in text
    assert "noise" not in text
    assert "differ" not in text.replace("differences", "")


def test_a_small_test_set_is_called_noise(trial: Trial) -> None:
    small = {"test_labels": np.zeros(199, dtype=int), "test_predictions": np.zeros(199, dtype=int)}
    text = caveats(answer_sweep([trial("all", **small), trial(**small)]))
    assert "only 199 examples, fewer than 200: on so few, differences of a few hundredths are noise" in text


def test_several_seeds_are_told_with_their_spread(trial: Trial) -> None:
    rows = [trial(seed=seed, test_f1=score) for seed, score in enumerate((0.70, 0.74, 0.78))]
    text = caveats(answer_sweep([trial("all"), *rows]))
    assert "0.740 with standard deviation 0.040 (3 seeds) for the selective configuration" in text
    assert "0.750 (1 seed) for the baseline configuration" in text


def test_other_differences_between_the_two_are_told(trial: Trial) -> None:
    ours, theirs = {"training.learning_rate": 0.001}, {"training.learning_rate": 0.0002}
    text = caveats(answer_sweep([trial("all", params=theirs), trial(params=ours)]))
    assert "differ in more than which blocks train: training.learning_rate 0.001 against 0.0002." in text


def test_reported_scores_that_are_not_those_of_the_predictions_are_told(trial: Trial) -> None:
    text = caveats(answer_sweep([trial("all"), trial(test_f1=0.9)]))
    assert "The reported test scores differ by +0.150, the macro-F1 of the kept predictions by +0.000" in text


def test_classes_that_the_test_set_lacks_count_for_nothing_and_are_said(trial: Trial) -> None:
    lacking = {"classes": {"test": "4 of 8 classes", "validation": "7 of 8 classes"}}
    rows = [trial("all", num_wrong=200, **lacking), trial(num_wrong=0, **lacking)]
    known, inferred = answer_sweep(rows, num_classes=8), answer_sweep(rows)
    assert known.interval is not None
    assert known.interval == inferred.interval
    assert "Macro-F1 on test is over 4 of 8 classes" in caveats(known)
    assert "Macro-F1 on validation is over 7 of 8 classes" in caveats(known)
    assert "classes" not in caveats(answer_sweep([trial("all"), trial()]))
