"""The worker pool: Ray Train worker groups that take trial after trial.

To start a worker group takes longer than many a trial. Here a group is started once, imports once, and its ranks ask
the ``Pool`` for one trial after the other, while the trial's Tune function only passes messages on. Whatever raises in
a rank ends the group, so that no other rank waits for it in a collective; the pool starts a new one, and Tune's retry
of the trial goes on from its checkpoint in whichever group is free.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from uuid import uuid4

import ray
from ray.util.placement_group import PlacementGroup, remove_placement_group

from irtune.workers.cluster import HEAD_NODE
from irtune.workers.worker import TrialSetup, worker_group

MAX_FAILED_STARTS = 3
"""Worker groups in a row that may fail in one place before any trial began in them."""


class Event(NamedTuple):
    """A message for a trial's Tune function; ``content`` is a report's metrics, or the error."""

    kind: Literal["report", "over", "failed"]
    content: Any = None


@dataclass
class _Trial:
    name: str
    overrides: Mapping[str, Any]
    events: list[Event] = field(default_factory=list)
    heard: int = 0
    stopped: bool = False

    @property
    def is_over(self) -> bool:
        return bool(self.events) and self.events[-1].kind != "report"


@dataclass
class _Group:
    """One worker group, from its start to its end."""

    trials: list[_Trial] = field(default_factory=list)
    num_asking: int = 0
    has_started: bool = False
    has_ended: bool = False
    error: str | None = None
    placement_group: PlacementGroup | None = None

    @property
    def trial(self) -> _Trial | None:
        """The trial that it works on."""
        return self.trials[-1] if self.trials and not self.trials[-1].is_over else None


class Pool:
    """The actor that gives trials to worker groups and carries messages between a trial's ranks and its Tune function.

    Everything happens in one event loop; only the worker groups' ``fit`` waits in threads. An actor that was restarted
    knows no trials: they come back by Tune's retries.

    Args:
        setup: The sweep.
        num_groups: Worker groups, which is trials at once.
        renew_after: Trials that a worker group takes before a new one takes its place.
    """

    def __init__(self, setup: TrialSetup, num_groups: int, renew_after: int) -> None:
        self._setup, self._num_groups, self._renew_after = setup, num_groups, renew_after
        self._num_ranks = setup.config({}).engine.num_workers
        self._groups: dict[str, _Group] = {}
        self._trials: dict[str, _Trial] = {}
        self._waiting: deque[_Trial] = deque()
        self._changed = asyncio.Condition()
        self._places: list[asyncio.Task[None]] = []
        self._start_errors: list[str] = []
        self._closing = False
        if ray.get_runtime_context().was_current_actor_reconstructed:
            _remove_worker_groups()

    async def start(self) -> None:
        """Start the worker groups, unless they have been."""
        if not self._places:
            self._threads = ThreadPoolExecutor(self._num_groups, thread_name_prefix="worker-group")
            pool = ray.get_runtime_context().current_actor
            self._places = [asyncio.create_task(self._run_groups(pool)) for _ in range(self._num_groups)]

    # What a trial's Tune function calls.

    async def submit(self, name: str, overrides: Mapping[str, Any]) -> int:
        """Put a trial in line; returns how many of its events were heard before by a Tune function that died."""
        await self.start()
        trial = self._trials.get(name)
        if trial is None or trial.stopped:
            trial = self._trials[name] = _Trial(name, overrides)
            self._waiting.append(trial)
            await self._notify()
        return trial.heard

    async def next_event(self, name: str, heard: int) -> Event:
        """The next event of a trial; to ask for it lets the trial go on after those that were ``heard``."""
        trial = self._trials[name]
        trial.heard = heard
        await self._notify()
        await self._until(lambda: len(trial.events) > heard or self._is_stuck(trial))
        if len(trial.events) <= heard:
            self._waiting.remove(trial)
            trial.events.append(Event("failed", "\n".join(self._start_errors)))
        event = trial.events[heard]
        if trial.is_over:
            self._trials.pop(name, None)
        return event

    async def stop(self, name: str) -> None:
        """Nobody listens any more to this trial: it ends at its next report, or does not begin."""
        trial = self._trials.pop(name, None)
        if trial is not None:
            trial.stopped = True
            if trial in self._waiting:
                self._waiting.remove(trial)
            await self._notify()

    async def close(self) -> None:
        """End the worker groups; returns when their processes are gone."""
        self._closing = True
        await self._notify()
        await asyncio.gather(*self._places)

    # What ranks call.

    async def started(self, group: str, placement_group: PlacementGroup) -> None:
        """The ranks of a worker group are there, in this placement group."""
        self._groups[group].placement_group = placement_group

    async def next_trial(self, group: str) -> tuple[str, Mapping[str, Any]] | None:
        """Name and overrides of a worker group's next trial, once all of its ranks ask for it; None ends the group."""
        own = self._groups[group]
        number = len(own.trials)
        is_last = number == self._renew_after
        own.num_asking += 1
        if own.num_asking == self._num_ranks:
            own.num_asking, own.has_started = 0, True
            if own.trial is not None:
                own.trial.events.append(Event("over"))
            await self._notify()
            if not is_last:
                await self._assign(own)
        if is_last:
            return None
        await self._until(lambda: len(own.trials) > number or self._ends(own))
        return None if self._ends(own) else (own.trials[number].name, own.trials[number].overrides)

    async def report(self, group: str, metrics: Mapping[str, Any]) -> bool:
        """Rank 0 has measured something; returns whether the trial is to go on, once its Tune function knows."""
        trial = self._groups[group].trials[-1]
        trial.events.append(Event("report", dict(metrics)))
        number = len(trial.events)
        await self._notify()
        await self._until(lambda: trial.heard >= number or trial.stopped)
        return not trial.stopped

    async def failed(self, group: str, error: str) -> None:
        """A rank raised; the first error of a worker group is the one that counts."""
        own = self._groups[group]
        own.error = own.error or error

    async def _assign(self, group: _Group) -> None:
        """Give a worker group the first trial in line that no other group is still about to stop."""

        def first() -> _Trial | None:
            busy = {other.trial.name for other in self._groups.values() if other.trial is not None}
            return next((trial for trial in self._waiting if trial.name not in busy), None)

        await self._until(lambda: first() is not None or self._ends(group))
        trial = first()
        if trial is not None and not self._ends(group):
            self._waiting.remove(trial)
            group.trials.append(trial)
            await self._notify()

    async def _run_groups(self, pool: Any) -> None:
        """Run a worker group, and another one whenever a trial waits after its end, as long as they start."""
        loop = asyncio.get_running_loop()
        failed_starts, error = 0, None
        while failed_starts < MAX_FAILED_STARTS and not self._closing:
            name, group = f"group_{uuid4().hex}", _Group()
            self._groups[name] = group
            error = await loop.run_in_executor(self._threads, self._fit, name, pool)
            # Only now is no rank alive that could still write to the trial's folder.
            group.has_ended = True
            error = group.error or error
            if group.trial is not None:
                group.trial.events.append(Event("failed", error or "its worker group ended"))
            del self._groups[name]
            failed_starts = 0 if group.has_started else failed_starts + 1
            await self._notify()
            await self._until(lambda: bool(self._waiting) or self._closing)
        self._start_errors.append(str(error))
        await self._notify()

    def _fit(self, name: str, pool: Any) -> str | None:
        """Run a worker group to its end; returns what went wrong."""
        try:
            worker_group(self._setup, pool, name).fit()
        except Exception as error:
            return str(error)
        finally:
            # Where the process that leads a worker group was killed, nobody else does: Ray Train's own helper for that
            # asks the dashboard who is alive, which a sweep's own Ray does without.
            if (reserved := self._groups[name].placement_group) is not None:
                remove_placement_group(reserved)
        return None

    def _ends(self, group: _Group) -> bool:
        """Whether a worker group gets no more trials."""
        return self._closing or group.has_ended

    def _is_stuck(self, trial: _Trial) -> bool:
        """Whether a trial waits for worker groups of which none could be started."""
        return trial in self._waiting and len(self._start_errors) == self._num_groups

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(condition)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def _remove_worker_groups() -> None:
    """Give back what worker groups of this job still reserve; trials' own processes, on the head node, keep theirs."""
    job = ray.get_runtime_context().get_job_id()
    for group_id, group in ray.util.placement_group_table().items():
        # The last bytes of the id are those of its job.
        if group_id.endswith(job) and not any(set(bundle) <= set(HEAD_NODE) for bundle in group["bundles"].values()):
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group_id))))
