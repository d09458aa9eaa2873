"""Sources of trials: what is asked for one trial after the other, and told how each went."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from irtune.analysis.trials import BASELINE
from irtune.search.space import Values

BASELINE_OVERRIDES: Values = {"method": None, "selection.policy.name": BASELINE}
"""What makes a trial the baseline."""

BASELINE_TRIAL = "baseline"
"""The baseline's name among the trials of a sweep."""

MATCHED = "baseline_of_"
"""Before the name of a trial: the baseline at that trial's other settings."""

TUNING = "tuning"
"""The phase of trials that only tune a cell, and the folder of their searches in that of a study."""


@dataclass(frozen=True)
class TrialSpec:
    """What a trial is to be.

    Args:
        name: Its name among the trials of its study, and its folder's; the same whichever driver goes on with it.
        overrides: Its configuration, by dotted key over the study's experiment; its seed is one of them.
        repeats: The name of the trial that it repeats with another seed.
        group: What it belongs to in its study, such as a cell, by key: tags and parameters of its run.

    Example:
        >>> TrialSpec("finalist_baseline_seed_1", {"seed": 1}, repeats="baseline").is_baseline
        True
    """

    name: str
    overrides: Values
    repeats: str | None = None
    group: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_baseline(self) -> bool:
        """Whether every block trains in it, as what others are compared with."""
        of = self.name if self.repeats is None else self.repeats
        return of == BASELINE_TRIAL or of.startswith(MATCHED)


BASELINE_SPEC = TrialSpec(BASELINE_TRIAL, BASELINE_OVERRIDES)
"""The first trial of every sweep. It is no point of the space, and its score would mislead a sampler."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Args:
        status: ``pruned`` where it was stopped early.
        results: What it reported last, by metric name.
        reason: Why it failed.
    """

    status: Literal["finished", "pruned", "failed"]
    results: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None


Ended = tuple[TrialSpec, Outcome]
"""A trial that needs no more work, and how it ended."""


class TrialSource(Protocol):
    """What is to be tried. One driver at a time asks; a later one asks a new source of the same kind what is left."""

    num_trials: int
    """The most trials that it has, those included that an earlier driver saw end."""

    @property
    def is_exhausted(self) -> bool:
        """Whether everything has been asked for."""

    def ended(self) -> list[Ended]:
        """Return the trials that an earlier driver saw end; they are not asked for again."""

    def ask(self) -> TrialSpec | None:
        """Return the next trial; None once there is no more."""

    def report(self, spec: TrialSpec, step: int, results: Mapping[str, Any]) -> None:
        """Take what a trial reported after ``step`` optimizer steps; by default nothing is learnt from it."""
        return

    def tell(self, spec: TrialSpec, outcome: Outcome) -> None:
        """Take how a trial ended; by default nothing is learnt from it."""
        return


class ListSource(TrialSource):
    """Trials in the order given, to which it is all the same how any of them goes.

    Args:
        specs: The trials.
        ended: How a trial ended under an earlier driver; None where there is work left.

    Example:
        >>> source = ListSource([TrialSpec("a", {}), TrialSpec("b", {})])
        >>> source.ask().name, source.is_exhausted
        ('a', False)
    """

    def __init__(
        self, specs: Iterable[TrialSpec], ended: Callable[[TrialSpec], Outcome | None] = lambda spec: None
    ) -> None:
        known = [(spec, ended(spec)) for spec in specs]
        self.num_trials = len(known)
        self._ended = [(spec, outcome) for spec, outcome in known if outcome is not None]
        self._left = [spec for spec, outcome in known if outcome is None]

    @property
    def is_exhausted(self) -> bool:
        """Whether the list is through."""
        return not self._left

    def ended(self) -> list[Ended]:
        """Return those of the list that are over."""
        return list(self._ended)

    def ask(self) -> TrialSpec | None:
        """Return the next one."""
        return self._left.pop(0) if self._left else None


class Together:
    """Several sources as one, of which each is asked once those before it have no more: their trials run side by side.

    Args:
        sources: In the order in which they are asked.
        shown: From the place of a source and a trial of its own to what that trial is among all; by default the same.
    """

    def __init__(
        self,
        sources: Sequence[TrialSource],
        shown: Callable[[int, TrialSpec], TrialSpec] | None = None,
    ) -> None:
        self._sources, self._shown = list(sources), shown or _unchanged
        self.num_trials = sum(source.num_trials for source in self._sources)
        self._asked: dict[str, tuple[TrialSource, TrialSpec]] = {}

    @property
    def is_exhausted(self) -> bool:
        """Whether all are."""
        return all(source.is_exhausted for source in self._sources)

    def ended(self) -> list[Ended]:
        """Return those of all."""
        found = [(place, each) for place, source in enumerate(self._sources) for each in source.ended()]
        return [(self._shown(place, spec), outcome) for place, (spec, outcome) in found]

    def ask(self) -> TrialSpec | None:
        """Return the next trial of the first source that has one."""
        for place, source in enumerate(self._sources):
            own = source.ask()
            if own is not None:
                spec = self._shown(place, own)
                self._asked[spec.name] = source, own
                return spec
        return None

    def report(self, spec: TrialSpec, step: int, results: Mapping[str, Any]) -> None:
        """Pass on to the source whose trial it is."""
        source, own = self._asked[spec.name]
        source.report(own, step, results)

    def tell(self, spec: TrialSpec, outcome: Outcome) -> None:
        """Pass on to the source whose trial it is."""
        source, own = self._asked[spec.name]
        source.tell(own, outcome)


def _unchanged(place: int, spec: TrialSpec) -> TrialSpec:
    # A function with a name, since sources travel by pickle.
    return spec
