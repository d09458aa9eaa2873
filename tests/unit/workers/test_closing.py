"""A sweep's end does not hang on worker groups that nobody needs."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import GetTimeoutError

from irtune.workers import execution
from irtune.workers.execution import Execution


def test_a_pool_that_is_slow_to_close_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[Any] = []

    def get(*_: Any, timeout: float) -> None:
        raise GetTimeoutError(f"not within {timeout}")

    ray = SimpleNamespace(wait=lambda answers, timeout: ([], answers), get=get, kill=killed.append)
    monkeypatch.setattr(execution, "ray", ray)
    pool = SimpleNamespace(close=SimpleNamespace(remote=lambda: "answer"))
    sweep = object.__new__(Execution)
    sweep._pool = pool
    sweep.close()
    assert killed == [pool]
