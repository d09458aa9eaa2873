"""Lists of trials, several sources as one, and any source as Ray Tune's searcher."""

import pickle

from irtune.search.source import BASELINE_SPEC, ListSource, Outcome, Together, TrialSpec
from irtune.studies.ray_tune import SourceSearcher

A, B, C = (TrialSpec(name, {}) for name in "abc")


class Told(ListSource):
    """Keeps what it is told."""

    def __init__(self, specs):
        super().__init__(specs)
        self.told = []

    def report(self, spec, step, results):
        self.told.append((spec.name, step))

    def tell(self, spec, outcome):
        self.told.append((spec.name, outcome.status, outcome.reason))


def test_a_list_is_asked_for_what_is_left_of_it():
    over = {"a": Outcome("failed", reason="a bug")}
    source = ListSource([A, B, C], lambda spec: over.get(spec.name))
    assert source.num_trials == 3
    assert source.ended() == [(A, over["a"])]
    assert [source.ask(), source.is_exhausted, source.ask(), source.is_exhausted] == [B, False, C, True]
    assert source.ask() is None


def test_together_each_source_hears_of_its_own_trials():
    first, second = Told([A]), Told([B, C])
    both = Together([first, second])
    assert both.num_trials == 3
    assert [both.ask() for _ in range(4)] == [A, B, C, None]
    assert both.is_exhausted
    # As trials run side by side, they end in any order.
    both.report(C, 10, {})
    both.tell(B, Outcome("finished"))
    both.tell(A, Outcome("failed", reason="a bug"))
    assert first.told == [("a", "failed", "a bug")]
    assert second.told == [("c", 10), ("b", "finished", None)]


def test_tunes_searcher_asks_reports_and_tells():
    source = Told([BASELINE_SPEC, A, B])
    searcher = SourceSearcher(source)
    assert [TrialSpec(**searcher.suggest(f"t{number}")) for number in range(3)] == [BASELINE_SPEC, A, B]
    assert searcher.suggest("t3") == "FINISHED"
    searcher.on_trial_result("t1", {"step": 5, "eval/f1_macro": 0.1})
    searcher.on_trial_complete("t0", {"step": 10, "final": True})
    searcher.on_trial_complete("t1", {"step": 10})
    searcher.on_trial_complete("t2", None, error=True)
    assert source.told == [
        ("a", 5),
        ("baseline", 10),
        ("baseline", "finished", None),
        ("a", 10),
        ("a", "pruned", None),
        ("b", "failed", "it raised an error"),
    ]


def test_a_searcher_travels_with_the_tuner():
    searcher = pickle.loads(pickle.dumps(SourceSearcher(ListSource([A, B]))))
    assert [searcher.suggest("t0")["name"], searcher.suggest("t1")["name"]] == ["a", "b"]
