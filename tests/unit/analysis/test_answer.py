import re
from collections.abc import Callable

import numpy as np
import pytest
from saying import says

from irtune.analysis.answer import Answer, answer_sweep
from irtune.analysis.metrics import Metric
from irtune.analysis.trials import TrialRow

Trial = Callable[..., TrialRow]


def caveats(answer: Answer) -> str:
    return "\n".join(answer.caveats)


def test_better_than_the_baseline_names_all_that_a_user_decides_on(trial: Trial) -> None:
    selective, baseline = trial(num_wrong=80), trial("all", num_wrong=160)
    answer = answer_sweep([baseline, selective])
    assert says(
        answer.sentence,
        "better than … 12",
        "3 of 12 … top_k … every 20 steps … l2",
        "macro-F1 0.800 … 0.600",
        "+0.200",
        re.compile(r"95%[^\d+-]*\+0\.1"),
    )
    assert says(
        answer.sentence, "30% … time", "38% … FLOPs", "75% … trainable parameters", re.compile("saves.*30%.*38%.*75%")
    )
    assert answer.best is answer.selective is selective
    assert answer.baseline is baseline
    assert answer.interval is not None
    assert answer.interval.difference == pytest.approx(0.2)
    assert (answer.saving("seconds"), answer.saving("flops")) == pytest.approx((0.3, 0.375))
    assert answer.saving("trainable_share") == pytest.approx(0.75)


def test_indistinguishable_when_the_interval_contains_zero(trial: Trial) -> None:
    answer = answer_sweep([trial("all", num_wrong=101), trial(num_wrong=100)])
    assert answer.interval is not None
    # They differ in a single example, which a third of the resamples lack: the interval reaches 0 and not below.
    assert answer.interval.low == 0.0 < answer.interval.high
    assert says(answer.sentence, "indistinguishable … 12")


def test_worse_than_the_baseline_which_was_itself_chosen(trial: Trial) -> None:
    selective, baseline = trial(num_wrong=200), trial("all", num_wrong=100)
    answer = answer_sweep([selective, trial(num_wrong=300), baseline])
    assert answer.best is baseline
    assert answer.selective is selective
    assert says(answer.sentence, "No trial … beat the baseline", "macro-F1 0.750 … 0.500", "3 of 12 blocks", "all 12")
    assert says(answer.sentence, "worse than … 12", "macro-F1 0.500 … 0.750", "-0.250")


def test_trials_no_better_than_guessing_are_not_praised(trial: Trial) -> None:
    neither = answer_sweep([trial("all", num_wrong=380), trial(num_wrong=330)])
    assert says(neither.sentence, "Nothing … learnt", "neither trial beats guessing", "macro-F1 0.250")
    assert "learnt" not in answer_sweep([trial("all", num_wrong=380), trial(num_wrong=100)]).sentence


def test_a_score_above_guessing_by_luck_beats_nothing(trial: Trial) -> None:
    answer = answer_sweep([trial("all", num_wrong=300), trial(num_wrong=296)])
    assert says(answer.sentence, "shown … learnt", "neither trial beats guessing", "macro-F1 0.250")
    assert says(answer.sentence, "macro-F1 0.260", re.compile(r"95%[^\d+-]*0\.2"))
    assert "beats it" not in caveats(answer)


def test_a_trial_that_beats_guessing_is_told_from_one_that_does_not(trial: Trial) -> None:
    answer = answer_sweep([trial("all", num_wrong=100), trial(num_wrong=300)])
    assert says(caveats(answer), "Guessing … macro-F1 … 0.250")
    assert says(caveats(answer), re.compile(r"selective trial does not beat [^;]*macro-F1 0\.250[^;]*95%[^\d+-]*0\.2"))
    assert says(caveats(answer), re.compile(r"the baseline beats [^;]*macro-F1 0\.750[^;]*95%[^\d+-]*0\.7"))


def test_the_largest_class_of_an_uneven_test_set_is_no_learning(trial: Trial) -> None:
    labels = np.array([0] * 360 + [1] * 20 + [2] * 20)
    constant = {"test_labels": labels, "test_predictions": np.zeros(400, dtype=int), "test_score": 2 * 0.9 / 1.9 / 3}
    # Above a uniform guess over four classes, 1/4, and below a third.
    assert constant["test_score"] > 0.25
    answer = answer_sweep([trial("all", **constant), trial(**constant)], num_classes=4)
    assert says(answer.sentence, "Nothing … learnt", "neither trial beats guessing", "macro-F1 0.333")


def test_a_single_trial_is_held_against_guessing_too(trial: Trial) -> None:
    assert says(answer_sweep([trial("all", num_wrong=300)]).sentence, "Nothing … learnt", "the baseline does not")
    without = {"test_predictions": None, "test_score": 0.2}
    assert says(answer_sweep([trial(**without)]).sentence, "Nothing … learnt", "the selective trial does not")


def test_a_tie_on_validation_goes_to_fewer_flops(trial: Trial) -> None:
    selective = trial()
    assert answer_sweep([trial("all"), selective]).best is selective


def test_what_costs_more_is_not_called_a_saving(trial: Trial) -> None:
    dear = trial(seconds=1250.0, flops=4.0e15)
    assert says(
        answer_sweep([trial("all"), dear]).sentence,
        "saves 75% … trainable parameters",
        "costs 25% … time",
        "the same FLOPs",
    )
    unmeasured = trial(seconds=None, flops=None, trainable_share=None)
    assert not re.search(r"saves|costs|takes", answer_sweep([trial("all"), unmeasured]).sentence)


def test_no_selective_trial_finished(trial: Trial) -> None:
    rows = [trial("all"), trial(status="pruned", test_score=None), trial(status="failed", validation_score=None)]
    answer = answer_sweep(rows)
    assert says(answer.sentence, "No trial … 1 failed, 1 pruned", "cannot say", "baseline … 12 … macro-F1 … 0.750")
    assert answer.interval is answer.selective is answer.saving("flops") is None
    assert says(answer_sweep(rows[:1]).sentence, "No trial selects blocks", "cannot say")


def test_the_baseline_did_not_finish_or_was_not_run(trial: Trial) -> None:
    selective = trial(num_wrong=100)
    failed = answer_sweep([selective, trial("all", status="failed", validation_score=None)])
    assert failed.best is selective
    assert says(failed.sentence, "0.750", "baseline … 12 … did not finish … 1 failed", "is not known")
    assert "is not known" in failed.sentence
    assert says(answer_sweep([selective]).sentence, "baseline … 12 … not part of")


def test_nothing_finished(trial: Trial) -> None:
    answer = answer_sweep([trial(status="killed", validation_score=None)])
    assert answer.best is None
    assert says(answer.sentence, "No baseline … strategy all")
    assert says(caveats(answer), "not finish … 1 killed … of 1")
    assert answer_sweep([]).best is None


def test_without_predictions_there_is_a_difference_but_no_verdict(trial: Trial) -> None:
    answer = answer_sweep([trial("all", test_score=0.5), trial(test_predictions=None, test_score=0.625)])
    assert answer.interval is None
    assert says(answer.sentence, "cannot be compared")
    assert says(answer.sentence, "+0.125", "no interval", "predictions")


def test_predictions_on_another_test_set_are_not_compared(trial: Trial) -> None:
    answer = answer_sweep([trial("all"), trial(test_labels=np.zeros(400, dtype=int))])
    assert answer.interval is None
    assert "tested on different examples" in caveats(answer)


def test_a_policy_that_chooses_its_own_number_and_one_that_chooses_once(trial: Trial) -> None:
    own = trial("variance_split", mean_active=4.26, k=None, reselect_every=1)
    assert says(answer_sweep([trial("all"), own]).sentence, "on average 4.3 of 12 … variance_split … every step")
    once = trial("last", reselect_every=0, within_block=None)
    assert says(answer_sweep([trial("all"), once]).sentence, "strategy last … chosen once")


def test_caveats_of_an_ordinary_sweep(trial: Trial) -> None:
    rows = [trial("all"), trial(), trial(k=5, num_wrong=200), trial(status="pruned"), trial(status="pruned")]
    text = caveats(answer_sweep(rows, num_validation=300, metric="macro-F1"))
    assert says(text, "between seeds … not measured")
    assert "The test set has 400 examples" in text
    assert says(text, "2 selective", "1 baseline", "picked … macro-F1 … 300 validation")
    assert says(text, "not finish … 2 pruned … of 5")
    assert "interrupted" not in text


def test_interrupted_trials_are_said(trial: Trial) -> None:
    text = caveats(answer_sweep([trial("all"), trial(attempts=3), trial(k=5)]))
    assert says(text, "interrupted … checkpoint … 1")
    assert says(text, "Time … noisy", "FLOPs")
    assert "noise" not in text
    assert "differ" not in text.replace("differences", "")


def test_a_small_test_set_is_called_noise(trial: Trial) -> None:
    small = {"test_labels": np.zeros(199, dtype=int), "test_predictions": np.zeros(199, dtype=int)}
    text = caveats(answer_sweep([trial("all", **small), trial(**small)]))
    assert says(text, "199 examples", "fewer than 200", "noise")


RATE = "training.learning_rate"


def test_a_baseline_at_other_settings_allows_no_verdict(trial: Trial) -> None:
    """As the file has it the baseline had one learning rate, and the best trial many to choose from."""
    ours, theirs = {RATE: 0.001}, {RATE: 0.0002}
    rows = [trial("all", num_wrong=200, params=theirs), trial(num_wrong=20, params=ours)]
    answer = answer_sweep(rows)
    assert "better" not in answer.sentence
    assert says(answer.sentence, "macro-F1 … 0.950", "baseline … 12 … has not run … same")
    assert says(answer.sentence, f"({RATE} 0.001)", "is not known")
    assert says(answer.sentence, f"other settings … {RATE} 0.0002 … 0.500")
    assert (answer.baseline, answer.given, answer.interval, answer.saving("flops")) == (None, rows[0], None, None)


@pytest.mark.parametrize(("num_wrong", "verdict"), [(200, "is better than"), (20, "is indistinguishable")])
def test_the_baseline_at_the_settings_of_the_best_decides(trial: Trial, num_wrong: int, verdict: str) -> None:
    ours, theirs = {RATE: 0.001, "selection.policy.k": 3}, {RATE: 0.0002}
    matched = trial("all", trial_id="matched", num_wrong=num_wrong, validation_score=0.4, params={RATE: 0.001})
    rows = [trial("all", num_wrong=240, validation_score=0.5, params=theirs), trial(num_wrong=20, params=ours), matched]
    answer = answer_sweep(rows)
    assert answer.baseline is matched
    assert verdict in answer.sentence
    assert says(answer.sentence, f"training all 12 … same settings … {RATE} 0.001", "macro-F1 0.950 … against")
    assert says(answer.sentence, f"baseline … other settings … {RATE} 0.0002 … macro-F1 … 0.400")
    assert answer.saving("flops") == pytest.approx(1 - 2.5 / 4)


def test_a_baseline_that_failed_at_the_settings_of_the_best_is_said(trial: Trial) -> None:
    rows = [trial("all", params={RATE: 1}), trial(params={RATE: 2}), trial("all", params={RATE: 2}, status="failed")]
    assert says(answer_sweep(rows).sentence, "did not finish … 1 failed … same settings")


def test_the_best_may_be_the_baseline_as_given(trial: Trial) -> None:
    rows = [
        trial("all", num_wrong=10, params={RATE: 1}),
        trial(num_wrong=20, params={RATE: 2}),
        trial("all", num_wrong=30, params={RATE: 2}),
    ]
    answer = answer_sweep(rows)
    assert answer.best is rows[0]
    assert says(answer.sentence, "No trial … beat the baseline")


def test_less_of_the_loss_is_better(trial: Trial) -> None:
    loss = Metric("loss")
    scored = {"metric": loss, "validation_score": 1.0}
    ours = trial(**scored, test_score=0.2, test_predictions=np.full(400, 0.2))
    theirs = trial("all", **scored, test_score=0.9, test_predictions=np.full(400, 0.9))
    answer = answer_sweep([theirs, ours], mode="min")
    assert says(answer.sentence, "better than … 12", "loss 0.200 … 0.900", "-0.700")
    assert says(caveats(answer), "Guessing … loss … 1.386", "shares of the classes")
    assert "macro-F1" not in answer.sentence + caveats(answer)
    worse = answer_sweep([trial("all", **scored, test_score=2.0, test_predictions=np.full(400, 2.0))], mode="min")
    assert "Nothing was learnt yet" in worse.sentence


def test_the_f1_of_a_class_decides(trial: Trial) -> None:
    rows = [
        trial(name, num_wrong=wrong, metric=Metric("f1/rare", 2), test_score=score, validation_score=score)
        for name, wrong, score in (("all", 300, 0.25), ("top_k", 0, 1.0))
    ]
    answer = answer_sweep(rows)
    assert says(answer.sentence, "better than … 12", "F1 of rare 1.000 … 0.250")
    assert "macro" not in answer.sentence + caveats(answer)


def test_classes_that_the_test_set_lacks_count_for_nothing_and_are_said(trial: Trial) -> None:
    lacking = {"classes": {"test": "4 of 8 classes", "validation": "7 of 8 classes"}}
    rows = [trial("all", num_wrong=200, **lacking), trial(num_wrong=0, **lacking)]
    known, inferred = answer_sweep(rows, num_classes=8), answer_sweep(rows)
    assert known.interval is not None
    assert known.interval == inferred.interval
    assert says(caveats(known), "Macro-F1 … test … 4 of 8 classes")
    assert says(caveats(known), "Macro-F1 … validation … 7 of 8 classes")
    assert "classes" not in caveats(answer_sweep([trial("all"), trial()]))
