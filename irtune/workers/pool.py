"""Slots: long-lived Ray Train worker groups that take trial after trial.

To start a worker group takes longer than many a trial. Here a group is started once, imports once, and its ranks ask
the ``Desk`` for one trial after the other, while the trial's Tune function only passes messages on. Whatever raises in
a rank ends the group, so that no other rank waits for it in a collective; the desk starts a new one, and Tune's retry
of the trial goes on from its checkpoint in whichever slot is free.
"""

import asyncio
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from uuid import uuid4

import ray

from irtune.workers import placement
from irtune.workers.worker import TrialSetup, own_rank, train_rank, worker_group

MAX_FAILED_STARTS = 3
"""How often in a row a slot may fail before any trial began in it."""


class Job(NamedTuple):
    """A trial for a slot: its name and configuration."""

    trial: str
    overrides: Mapping[str, Any]


class Event(NamedTuple):
    """What a trial's Tune function hears of it; ``content`` is a report's metrics, or the error."""

    kind: Literal["report", "over", "failed"]
    content: Any = None


class TrialFailedError(RuntimeError):
    """A trial failed in its slot, or its slot died; the message is the traceback of the rank that failed first."""


class _TrialStoppedError(Exception):
    """The scheduler has stopped the trial that this rank trains."""


@dataclass(frozen=True)
class SlotPlan:
    """What slots there are to be.

    Args:
        setup: The sweep.
        num_slots: Trials at once.
        renew_after: Trials that a worker group takes before it is replaced by a new one.
    """

    setup: TrialSetup
    num_slots: int
    renew_after: int

    @property
    def num_ranks(self) -> int:
        """Workers of a slot."""
        return self.setup.config({}).engine.num_workers


@dataclass
class _Trial:
    job: Job
    events: list[Event] = field(default_factory=list)
    heard: int = 0
    stopped: bool = False


@dataclass
class _Slot:
    """One worker group after another; ``generation`` counts them."""

    index: int
    generation: int = -1
    trials: list[_Trial] = field(default_factory=list)
    asking: set[int] = field(default_factory=set)
    error: str | None = None
    failed_starts: int = 0
    placement_group: str | None = None
    gave_up: bool = False

    @property
    def trial(self) -> _Trial | None:
        """The trial that it works on."""
        return self.trials[-1] if self.trials and not _is_over(self.trials[-1]) else None


class Desk:
    """The actor that hands trials to slots and carries messages between a trial's ranks and its Tune function.

    Everything happens in one event loop; only the worker groups' ``fit`` waits in threads. A desk that was restarted
    knows nothing, and learns the plan from the first trial that comes back to it.
    """

    def __init__(self) -> None:
        self._slots: list[_Slot] = []
        self._trials: dict[str, _Trial] = {}
        self._waiting: deque[_Trial] = deque()
        self._changed = asyncio.Condition()
        self._keepers: list[asyncio.Task[None]] = []
        self._closing = False
        if ray.get_runtime_context().was_current_actor_reconstructed:
            placement.remove_worker_groups()

    async def start(self, plan: SlotPlan) -> None:
        """Start the slots, unless they are there."""
        if self._slots:
            return
        self._plan, self._num_ranks = plan, plan.num_ranks
        self._slots = [_Slot(index) for index in range(plan.num_slots)]
        self._threads = ThreadPoolExecutor(plan.num_slots, thread_name_prefix="slot")
        handle = ray.get_runtime_context().current_actor
        self._keepers = [asyncio.create_task(self._keep(slot, handle)) for slot in self._slots]

    # What a trial's Tune function calls.

    async def submit(self, job: Job, plan: SlotPlan) -> int:
        """Put a trial in line; returns how many of its events were heard before by a Tune function that died."""
        await self.start(plan)
        trial = self._trials.get(job.trial)
        if trial is None or trial.stopped:
            trial = self._trials[job.trial] = _Trial(job)
            self._waiting.append(trial)
            await self._notify()
        return trial.heard

    async def listen(self, name: str, heard: int) -> Event:
        """The next event of a trial; to ask for it lets the trial go on after those that were ``heard``."""
        trial = self._trials[name]
        trial.heard = heard
        await self._notify()
        await self._until(lambda: len(trial.events) > heard or self._is_stuck(trial))
        if len(trial.events) <= heard:
            self._waiting.remove(trial)
            trial.events.append(Event("failed", "\n".join(str(slot.error) for slot in self._slots)))
        event = trial.events[heard]
        if _is_over(trial):
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
        """End the slots; returns when their processes are gone."""
        self._closing = True
        await self._notify()
        await asyncio.gather(*self._keepers)

    # What ranks call.

    async def began(self, slot: int, placement_group: str | None) -> None:
        """A worker group is there, in this placement group."""
        self._slots[slot].placement_group = placement_group

    async def next_job(self, slot: int, generation: int, number: int, rank: int) -> Job | None:
        """The trial ``number`` of a worker group, once all of its ranks are done with the one before; None ends it."""
        own = self._slots[slot]
        if self._ends(own, generation):
            return None
        own.asking.add(rank)
        if len(own.asking) == self._num_ranks:
            own.asking.clear()
            own.failed_starts = 0
            if own.trial is not None:
                own.trial.events.append(Event("over"))
            await self._notify()
            if number < self._plan.renew_after:
                await self._assign(own, generation)
        if number >= self._plan.renew_after:
            return None
        await self._until(lambda: len(own.trials) > number or self._ends(own, generation))
        return None if self._ends(own, generation) else own.trials[number].job

    async def report(self, slot: int, metrics: Mapping[str, Any]) -> bool:
        """Rank 0 has measured something; returns whether the trial is to go on, once its Tune function knows."""
        trial = self._slots[slot].trials[-1]
        trial.events.append(Event("report", dict(metrics)))
        number = len(trial.events)
        await self._notify()
        await self._until(lambda: trial.heard >= number or trial.stopped)
        return not trial.stopped

    async def failed(self, slot: int, error: str) -> None:
        """A rank raised; the first error of a worker group is the one that counts."""
        own = self._slots[slot]
        own.error = own.error or error

    async def _assign(self, slot: _Slot, generation: int) -> None:
        """Give a slot the first trial in line that no other slot is still about to stop."""

        def first() -> _Trial | None:
            busy = {other.trial.job.trial for other in self._slots if other.trial is not None}
            return next((trial for trial in self._waiting if trial.job.trial not in busy), None)

        await self._until(lambda: first() is not None or self._ends(slot, generation))
        trial = first()
        if trial is not None and not self._ends(slot, generation):
            self._waiting.remove(trial)
            slot.trials.append(trial)
            await self._notify()

    async def _keep(self, slot: _Slot, handle: Any) -> None:
        """Run one worker group after the other, as long as they get so far as to ask for a trial."""
        loop = asyncio.get_running_loop()
        while slot.failed_starts < MAX_FAILED_STARTS and not self._closing:
            slot.generation += 1
            slot.failed_starts += 1
            slot.trials, slot.asking, slot.error = [], set(), None
            error = await loop.run_in_executor(self._threads, self._fit, slot.index, slot.generation, handle)
            slot.error = slot.error or error
            # Only now is no rank alive that could still write to the trial's folder.
            if slot.trial is not None:
                slot.trial.events.append(Event("failed", slot.error or "its slot ended"))
            await self._notify()
        slot.gave_up = True
        await self._notify()

    def _fit(self, slot: int, generation: int, handle: Any) -> str | None:
        """Run a worker group to its end; returns what went wrong."""
        group = worker_group(
            self._plan.setup,
            serve,
            {"desk": handle, "slot": slot, "generation": generation, "setup": self._plan.setup},
            name=f"slot_{slot}_{generation}_{uuid4().hex[:8]}",
            callbacks=[],
        )
        try:
            group.fit()
        except Exception as error:
            return str(error)
        finally:
            if (reserved := self._slots[slot].placement_group) is not None:
                placement.remove(reserved)
        return None

    def _ends(self, slot: _Slot, generation: int) -> bool:
        """Whether a worker group of a slot gets no more trials."""
        return self._closing or slot.generation != generation

    def _is_stuck(self, trial: _Trial) -> bool:
        """Whether a trial waits for slots that have all given up."""
        return trial in self._waiting and all(slot.gave_up for slot in self._slots)

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(condition)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def serve(config: Mapping[str, Any]) -> None:
    """What each rank of a slot does: train one trial after the other, and leave the others in the end."""
    from irtune.training.distributed import left_at_end

    with left_at_end():
        _serve(config)


def _serve(config: Mapping[str, Any]) -> None:
    desk, slot, setup, rank = config["desk"], config["slot"], config["setup"], own_rank()
    number = 0
    if rank == 0:
        ray.get(desk.began.remote(slot, placement.own_placement_group()))
    while (job := ray.get(desk.next_job.remote(slot, config["generation"], number, rank))) is not None:
        number += 1
        try:
            train_rank(job.overrides, job.trial, setup, lambda metrics: _report(desk, slot, rank, metrics), rank)
        except _TrialStoppedError:
            continue
        except BaseException:
            ray.get(desk.failed.remote(slot, traceback.format_exc()))
            raise


def _report(desk: Any, slot: int, rank: int, metrics: Mapping[str, Any]) -> None:
    """Rank 0 passes on what was measured; all ranks learn whether to go on."""
    from irtune.layers.collectives import broadcast

    if not broadcast(ray.get(desk.report.remote(slot, metrics)) if rank == 0 else None):
        raise _TrialStoppedError


def relay(job: Job, desk: Any, plan: SlotPlan, report: Callable[[dict[str, Any]], None]) -> None:
    """What the Tune function of a trial does: pass on what its slot reports.

    Args:
        job: The trial.
        desk: The sweep's ``Desk``.
        plan: For a desk that was restarted.
        report: Tells Tune; raises ``SystemExit`` where the scheduler stops the trial.

    Raises:
        TrialFailedError: If the trial failed or its slot died.
    """
    heard = ray.get(desk.submit.remote(job, plan))
    try:
        while (event := ray.get(desk.listen.remote(job.trial, heard))).kind == "report":
            report(event.content)
            heard += 1
    except BaseException:
        desk.stop.remote(job.trial)
        raise
    if event.kind == "failed":
        raise TrialFailedError(event.content)


def _is_over(trial: _Trial) -> bool:
    return bool(trial.events) and trial.events[-1].kind != "report"
