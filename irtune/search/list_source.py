"""Trials that are known beforehand, and what hands them to Ray Tune: the baseline at other settings, repeats."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ray.tune.search import Searcher

from irtune.search.optuna_source import is_baseline
from irtune.search.space import Values


@dataclass(frozen=True)
class ListedTrial:
    """A trial that no sampler suggests.

    Args:
        name: What it is called among the trials of the sweep.
        overrides: Its configuration, over the sweep's experiment.
        repeats: The name of the trial that it repeats with another seed.
    """

    name: str
    overrides: Values
    repeats: str | None = None

    def suggestion(self) -> dict[str, Any]:
        """What Ray Tune is told of it."""
        told = {"overrides": self.overrides, "trial": self.name, "is_baseline": is_baseline(self.name, self.repeats)}
        return told | ({} if self.repeats is None else {"repeats": self.repeats})


class ListSearcher(Searcher):  # type: ignore[misc]
    """Suggests trials in the order given, then ``FINISHED``; how they end teaches it nothing."""

    def __init__(self, trials: Iterable[ListedTrial]) -> None:
        super().__init__()
        self._left = list(trials)

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next trial, or ``FINISHED``."""
        return self._left.pop(0).suggestion() if self._left else str(Searcher.FINISHED)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing to learn."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to write: a later driver sees from the trials' folders what is left."""
