"""The pool between trials and worker groups, with threads in place of groups and ranks."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from irtune.workers import pool
from irtune.workers.pool import MAX_FAILED_STARTS, Event, Pool
from irtune.workers.worker import TrialSetup

RANKS = 2
Call = Callable[[Coroutine[Any, Any, Any]], Any]


def pool_setup() -> TrialSetup:
    return TrialSetup({"engine": {"num_workers": RANKS}}, Path(), None)  # type: ignore[arg-type]


class Threads(Pool):
    """A pool whose ranks are threads; ``train`` is what each does with a trial, and its error ends the group."""

    def __init__(
        self, train: Callable[["Threads", Call, str, int, str], None], num_groups: int = 1, renew_after: int = 50
    ) -> None:
        super().__init__(pool_setup(), num_groups, renew_after)
        self.train = train
        self.started_groups: list[str] = []
        self.trained: list[tuple[int, str]] = []
        self.loop = asyncio.get_running_loop()

    def _fit(self, name: str, pool: Any) -> str | None:
        self.started_groups.append(name)
        index = len(self.started_groups) - 1

        def call(coroutine: Coroutine[Any, Any, Any]) -> Any:
            return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

        def rank(number: int) -> None:
            while (trial := call(self.next_trial(name))) is not None:
                if number == 0:
                    self.trained.append((index, trial[0]))
                self.train(self, call, name, number, trial[0])

        with ThreadPoolExecutor(RANKS) as ranks:
            errors = [future.exception(20) for future in [ranks.submit(rank, number) for number in range(RANKS)]]
        return next((str(error) for error in errors if error is not None), None)


@pytest.fixture(autouse=True)
def _outside_of_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    context = SimpleNamespace(current_actor=None, was_current_actor_reconstructed=False)
    monkeypatch.setattr(pool, "ray", SimpleNamespace(get_runtime_context=lambda: context))


def nothing(pool: Threads, call: Call, group: str, rank: int, trial: str) -> None:
    """A trial that reports nothing."""


def reports_once(pool: Threads, call: Call, group: str, rank: int, trial: str) -> None:
    """A trial that reports its name."""
    if rank == 0:
        call(pool.report(group, {"name": trial}))


async def hear(pool: Pool, name: str) -> list[Event]:
    """What a trial's Tune function hears to the end."""
    heard = await pool.submit(name, {})
    events: list[Event] = []
    while not events or events[-1].kind == "report":
        events.append(await pool.next_event(name, heard + len(events)))
    return events


def test_trials_are_taken_once_each_in_their_order_and_their_ends_are_told() -> None:
    async def run() -> None:
        pool = Threads(reports_once)
        found = await asyncio.gather(*(hear(pool, name) for name in "abc"))
        await pool.close()
        assert found == [[Event("report", {"name": name}), Event("over")] for name in "abc"]
        assert pool.trained == [(0, "a"), (0, "b"), (0, "c")]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("renew_after", "groups"), [(1, [0, 1, 2]), (2, [0, 0, 1]), (3, [0, 0, 0])], ids=lambda each: str(each)
)
def test_a_worker_group_is_renewed_after_so_many_trials_once_another_waits(renew_after: int, groups: list[int]) -> None:
    async def run() -> None:
        pool = Threads(nothing, renew_after=renew_after)
        for name in "abc":
            await hear(pool, name)
        await asyncio.sleep(0.3)
        await pool.close()
        assert pool.trained == list(zip(groups, "abc", strict=True))
        # None that nobody needs: a sweep would wait for its start before it could end.
        assert len(pool.started_groups) == groups[-1] + 1

    asyncio.run(run())


def test_a_trial_that_raises_fails_and_the_next_gets_other_processes() -> None:
    def train(pool: Threads, call: Call, group: str, rank: int, trial: str) -> None:
        if trial == "a" and rank == 1:
            call(pool.failed(group, "ValueError: a bug"))
            call(pool.failed(group, "ConnectionError: what comes of it"))
            raise ValueError("the group ends")

    async def run() -> None:
        pool = Threads(train)

        async def release() -> None:
            # Ray Train would kill rank 0, which waits for the next trial.
            await asyncio.sleep(0.3)
            pool._groups[pool.started_groups[0]].has_ended = True
            await pool._notify()

        first, _ = await asyncio.gather(hear(pool, "a"), release())
        assert first == [Event("failed", "ValueError: a bug")]
        assert await hear(pool, "b") == [Event("over")]
        await pool.close()
        assert pool.trained == [(0, "a"), (1, "b")]

    asyncio.run(run())


def test_a_tune_function_that_died_hears_again_what_nobody_answered() -> None:
    async def run() -> None:
        pool = Threads(reports_once)
        heard = await pool.submit("a", {})
        assert await pool.next_event("a", heard) == Event("report", {"name": "a"})
        # Another one comes in its place.
        assert await hear(pool, "a") == [Event("report", {"name": "a"}), Event("over")]
        await pool.close()
        assert len(pool.trained) == 1

    asyncio.run(run())


def test_a_stopped_trial_begins_again_only_when_its_ranks_are_done_with_it() -> None:
    going: list[str] = []

    def train(pool: Threads, call: Call, group: str, rank: int, trial: str) -> None:
        if rank == 0:
            assert trial not in going
            going.append(trial)
            call(pool.report(group, {}))
            call(asyncio.sleep(0.2))
            going.remove(trial)

    async def run() -> None:
        pool = Threads(train, num_groups=2)
        heard = await pool.submit("a", {})
        await pool.next_event("a", heard)
        await pool.stop("a")
        assert [event.kind for event in await hear(pool, "a")] == ["report", "over"]
        await pool.close()
        assert len(pool.trained) == 2

    asyncio.run(run())


def test_trials_fail_with_the_reason_once_no_worker_group_can_be_started() -> None:
    starts: list[str] = []

    class Broken(Pool):
        def _fit(self, name: str, pool: Any) -> str | None:
            starts.append(name)
            return "no room for a worker"

    async def run() -> None:
        expected = [Event("failed", "no room for a worker\nno room for a worker")]
        assert await hear(Broken(pool_setup(), num_groups=2, renew_after=50), "a") == expected

    asyncio.run(run())
    assert len(starts) == 2 * MAX_FAILED_STARTS
