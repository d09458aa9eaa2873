"""What is in an MLflow database, read past MLflow."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass


@dataclass(frozen=True)
class StoredRun:
    """A run as its rows say."""

    status: str
    start_time_ms: int
    end_time_ms: int | None
    tags: Mapping[str, str]
    points: tuple[tuple[str, int, float], ...]
    """Every row of the metrics table: name, step, value."""

    def steps(self, name: str) -> list[int]:
        """The steps of one metric, as often as they are stored."""
        return sorted(step for metric, step, _ in self.points if metric == name)


def stored_runs(uri: str) -> dict[str, StoredRun]:
    """All runs of an SQLite store, by irtune's key; two runs of one key are a mistake."""
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database:
        runs = database.execute("SELECT run_uuid, status, start_time, end_time FROM runs").fetchall()
        tags: dict[str, dict[str, str]] = {run[0]: {} for run in runs}
        for run, name, value in database.execute("SELECT run_uuid, key, value FROM tags"):
            tags[run][name] = value
        points: dict[str, list[tuple[str, int, float]]] = {run[0]: [] for run in runs}
        for run, name, step, value in database.execute("SELECT run_uuid, key, step, value FROM metrics"):
            points[run].append((name, step, value))
    keys = [tags[run[0]]["irtune.key"] for run in runs]
    assert len(set(keys)) == len(keys), sorted(keys)
    return {
        key: StoredRun(status, start, end, tags[run], tuple(sorted(points[run])))
        for key, (run, status, start, end) in zip(keys, runs, strict=True)
    }
