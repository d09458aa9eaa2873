"""The desk between trials and slots, with threads in place of worker groups and ranks."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from irtune.workers import pool as slots
from irtune.workers.pool import Desk, Event, Job, SlotPlan
from irtune.workers.worker import TrialSetup

RANKS = 2
Call = Callable[[Coroutine[Any, Any, Any]], Any]


class Threads(Desk):
    """A desk whose ranks are threads; ``train`` is what each does with a job, and its error ends the slot."""

    def __init__(self, train: Callable[["Threads", Call, int, int, Job], None]) -> None:
        super().__init__()
        self.train = train
        self.trained: list[tuple[int, int, str]] = []
        self.loop = asyncio.get_running_loop()

    def _fit(self, slot: int, generation: int, handle: Any) -> str | None:
        def call(coroutine: Coroutine[Any, Any, Any]) -> Any:
            return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

        def rank(number: int) -> None:
            count = 0
            while (job := call(self.next_job(slot, generation, count, number))) is not None:
                count += 1
                if number == 0:
                    self.trained.append((slot, generation, job.trial))
                self.train(self, call, slot, number, job)

        with ThreadPoolExecutor(RANKS) as ranks:
            errors = [future.exception(20) for future in [ranks.submit(rank, number) for number in range(RANKS)]]
        return next((str(error) for error in errors if error is not None), None)


@pytest.fixture(autouse=True)
def _outside_of_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    context = SimpleNamespace(current_actor=None, was_current_actor_reconstructed=False)
    monkeypatch.setattr(slots, "ray", SimpleNamespace(get_runtime_context=lambda: context))


def plan(num_slots: int = 1, renew_after: int = 50) -> SlotPlan:
    setup = TrialSetup({"engine": {"num_workers": RANKS}}, Path(), None)  # type: ignore[arg-type]
    return SlotPlan(setup, num_slots, renew_after)


def nothing(desk: Threads, call: Call, slot: int, rank: int, job: Job) -> None:
    """A trial that reports nothing."""


def reports_once(desk: Threads, call: Call, slot: int, rank: int, job: Job) -> None:
    """A trial that reports its name."""
    if rank == 0:
        call(desk.report(slot, {"name": job.trial}))


async def hear(desk: Desk, name: str, the_plan: SlotPlan) -> list[Event]:
    """What a trial's Tune function hears to the end."""
    heard = await desk.submit(Job(name, {}), the_plan)
    events: list[Event] = []
    while not events or events[-1].kind == "report":
        events.append(await desk.listen(name, heard + len(events)))
    return events


def test_trials_are_taken_once_each_in_their_order_and_their_ends_are_told() -> None:
    async def run() -> None:
        desk = Threads(reports_once)
        found = await asyncio.gather(*(hear(desk, name, plan()) for name in "abc"))
        await desk.close()
        assert found == [[Event("report", {"name": name}), Event("over")] for name in "abc"]
        assert desk.trained == [(0, 0, "a"), (0, 0, "b"), (0, 0, "c")]

    asyncio.run(run())


def test_a_slot_is_renewed_after_so_many_trials() -> None:
    async def run() -> None:
        desk = Threads(nothing)
        for name in "abc":
            await hear(desk, name, plan(renew_after=2))
        await desk.close()
        assert desk.trained == [(0, 0, "a"), (0, 0, "b"), (0, 1, "c")]

    asyncio.run(run())


def test_a_trial_that_raises_fails_and_the_next_gets_other_processes() -> None:
    def train(desk: Threads, call: Call, slot: int, rank: int, job: Job) -> None:
        if job.trial == "a" and rank == 1:
            call(desk.failed(slot, "ValueError: a bug"))
            raise ValueError("the slot ends")

    async def run() -> None:
        desk = Threads(train)

        async def release() -> None:
            # Ray Train would kill rank 0, which waits for the next job.
            await asyncio.sleep(0.3)
            desk._slots[0].generation += 1
            await desk._notify()

        first, _ = await asyncio.gather(hear(desk, "a", plan()), release())
        assert first == [Event("failed", "ValueError: a bug")]
        assert await hear(desk, "b", plan()) == [Event("over")]
        await desk.close()
        assert [trial for _, _, trial in desk.trained] == ["a", "b"]

    asyncio.run(run())


def test_a_tune_function_that_died_hears_again_what_nobody_answered() -> None:
    async def run() -> None:
        desk = Threads(reports_once)
        heard = await desk.submit(Job("a", {}), plan())
        assert await desk.listen("a", heard) == Event("report", {"name": "a"})
        # Another one comes in its place.
        assert await hear(desk, "a", plan()) == [Event("report", {"name": "a"}), Event("over")]
        await desk.close()
        assert len(desk.trained) == 1

    asyncio.run(run())


def test_a_stopped_trial_begins_again_only_when_its_ranks_are_done_with_it() -> None:
    going: list[str] = []

    def train(desk: Threads, call: Call, slot: int, rank: int, job: Job) -> None:
        if rank == 0:
            assert job.trial not in going
            going.append(job.trial)
            call(desk.report(slot, {}))
            call(asyncio.sleep(0.2))
            going.remove(job.trial)

    async def run() -> None:
        desk = Threads(train)
        heard = await desk.submit(Job("a", {}), plan(num_slots=2))
        await desk.listen("a", heard)
        await desk.stop("a")
        assert [event.kind for event in await hear(desk, "a", plan(num_slots=2))] == ["report", "over"]
        await desk.close()
        assert len(desk.trained) == 2

    asyncio.run(run())


def test_trials_fail_with_the_reason_once_no_slot_can_be_started() -> None:
    class Broken(Desk):
        def _fit(self, slot: int, generation: int, handle: Any) -> str | None:
            return "no room for a worker"

    async def run() -> None:
        assert await hear(Broken(), "a", plan(num_slots=2)) == [
            Event("failed", "no room for a worker\nno room for a worker")
        ]

    asyncio.run(run())
