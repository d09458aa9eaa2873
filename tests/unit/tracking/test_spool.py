import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irtune.tracking.spool import Record, SpoolReader, SpoolWriter, next_attempt


def refuse(token: str) -> None:
    raise AssertionError(f"{token} is not JSON")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_every_kind_comes_back_as_written(spool_directory: Path) -> None:
    writer = SpoolWriter(spool_directory, 0)
    writer.params({"selection.policy.k": 10, "adapter.targets": ["q", "v"], "nothing": None})
    writer.tags({"irtune.sweep": "a"})
    writer.metrics(3, {"train/loss": 0.5})
    writer.resumed(40)

    records = SpoolReader(spool_directory).poll()

    times = [record.pop("time_ms") for record in records]
    assert records == [
        {
            "kind": "params",
            "values": {"selection.policy.k": "10", "adapter.targets": "['q', 'v']", "nothing": "None"},
            "attempt": 0,
        },
        {"kind": "tags", "values": {"irtune.sweep": "a"}, "attempt": 0},
        {"kind": "metrics", "step": 3, "values": {"train/loss": 0.5}, "attempt": 0},
        {"kind": "resumed", "step": 40, "attempt": 0},
    ]
    assert times == sorted(times)
    assert times[0] > 1_600_000_000_000


def test_numbers_that_json_lacks_survive_in_strict_json(spool_directory: Path) -> None:
    writer = SpoolWriter(spool_directory, 0)
    writer.metrics(0, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": np.float32(0.5)})
    writer.selection(
        {
            "step": np.int64(0),
            "active": (np.int64(1),),
            "scores": np.array([math.nan, math.inf, 1.0]),
            "measured_at": np.array([-1, 2, 3]),
            "trainable_parameters": 7,
            "lowest_active": 1,
        }
    )

    assert len(lines(spool_directory / "attempt_0.jsonl")) == 2
    metrics, selection = SpoolReader(spool_directory).poll()
    assert math.isnan(metrics["values"].pop("a"))
    assert metrics["values"] == {"b": math.inf, "c": -math.inf, "d": 0.5}
    assert math.isnan(selection["scores"][0])
    assert selection["scores"][1:] == [math.inf, 1.0]
    assert (selection["active"], selection["measured_at"]) == ([1], [-1, 2, 3])


@given(st.dictionaries(st.text(), st.floats(width=64)), st.integers(0, 2**53))
def test_any_metrics_come_back(values: dict[str, float], step: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        writer = SpoolWriter(Path(folder) / "spool", 0)
        writer.metrics(step, values)
        writer.close()
        (record,) = SpoolReader(Path(folder) / "spool").poll()
    assert record["step"] == step
    assert list(record["values"]) == list(values)
    np.testing.assert_array_equal(list(record["values"].values()), list(values.values()))


@settings(max_examples=30)
@given(st.lists(st.integers(0, 400)), st.integers(1, 4))
def test_a_file_that_grows_anyhow_is_read_once_and_in_order(cuts: list[int], limit: int) -> None:
    content = "".join(json.dumps({"kind": "resumed", "step": step}) + "\n" for step in range(10)).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "attempt_0.jsonl"
        reader = SpoolReader(Path(folder))
        records: list[Record] = []
        for cut in [*sorted(cuts), len(content)]:
            path.write_bytes(content[:cut])
            while new := reader.poll(limit):
                assert len(new) <= limit
                records += new
    assert [record["step"] for record in records] == list(range(10))


def test_a_record_can_be_read_as_soon_as_it_is_written(spool_directory: Path) -> None:
    reader = SpoolReader(spool_directory)
    assert reader.poll() == []
    writer = SpoolWriter(spool_directory, 0)
    for step in range(3):
        writer.resumed(step)
        assert [record["step"] for record in reader.poll()] == [step]


def test_a_torn_last_line_waits_until_it_is_complete(spool_directory: Path) -> None:
    spool_directory.mkdir(parents=True)
    path = spool_directory / "attempt_0.jsonl"
    path.write_text('{"kind": "resumed", "step": 1}\n{"kind": "resu')
    reader = SpoolReader(spool_directory)
    assert [record["step"] for record in reader.poll()] == [1]
    assert reader.poll() == []
    with path.open("a") as file:
        file.write('med", "step": 2}\n')
    assert [record["step"] for record in reader.poll()] == [2]


def test_a_dead_attempts_torn_line_does_not_hold_up_the_next_attempt(spool_directory: Path) -> None:
    SpoolWriter(spool_directory, 0).metrics(5, {"loss": 1.0})
    with (spool_directory / "attempt_0.jsonl").open("a") as file:
        file.write('{"kind":"metrics","step":6,"val')
    SpoolWriter(spool_directory, next_attempt(spool_directory)).metrics(6, {"loss": 2.0})

    records = SpoolReader(spool_directory).poll()

    assert [(record["attempt"], record["step"]) for record in records] == [(0, 5), (1, 6)]


@pytest.mark.parametrize("junk", [b"\x00\x00\x00\n", b"{}\n", b"[1]\n", b'{"kind":"metrics","values":{"a":"b"}}\n'])
def test_a_complete_line_that_is_no_record_is_passed_over_with_a_warning(
    spool_directory: Path, junk: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    spool_directory.mkdir(parents=True)
    good = b'{"kind": "resumed", "step": 1}\n'
    (spool_directory / "attempt_0.jsonl").write_bytes(good + junk + good)
    assert len(SpoolReader(spool_directory).poll()) == 2
    assert f"attempt_0.jsonl, byte {len(good)}" in caplog.text


def test_attempts_are_counted_and_read_as_numbers(spool_directory: Path) -> None:
    assert next_attempt(spool_directory) == 0
    for attempt in (10, 9):
        SpoolWriter(spool_directory, attempt).resumed(attempt)
    (spool_directory / "attempt_11.jsonl.bak").touch()
    assert next_attempt(spool_directory) == 11
    assert [record["step"] for record in SpoolReader(spool_directory).poll()] == [9, 10]


def test_an_attempt_has_one_writer(spool_directory: Path) -> None:
    SpoolWriter(spool_directory, 0)
    with pytest.raises(FileExistsError, match="attempt_0"):
        SpoolWriter(spool_directory, 0)


def test_an_artifact_is_found_after_the_storage_has_moved(tmp_path: Path) -> None:
    trial = tmp_path / "here" / "trial"
    writer = SpoolWriter(trial / "spool", 0)
    writer.artifact(trial / "trace" / "layers.png", "trace")
    with pytest.raises(ValueError, match="lies outside of"):
        writer.artifact(tmp_path / "elsewhere.txt", "")
    writer.close()
    moved = (tmp_path / "here").rename(tmp_path / "there")

    (inside,) = SpoolReader(moved / "trial" / "spool").poll()

    assert (inside["folder"], inside["path"]) == (str(moved / "trial"), "trace/layers.png")
    assert inside["artifact_folder"] == "trace"


def test_what_people_may_read_in_mlflow_holds_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "from-the-environment")
    writer = SpoolWriter(tmp_path / "spool", 0)
    writer.params({"data.path": "https://me:planted@host/x.csv", "engine.deepspeed.api_key": "planted", "data.k": 3})
    writer.tags({"note": "it said from-the-environment"})
    writer.close()
    params, tags = SpoolReader(tmp_path / "spool").poll()
    assert params["values"] == {"data.path": "https://host/x.csv", "engine.deepspeed.api_key": "***", "data.k": "3"}
    assert tags["values"] == {"note": "it said ***"}


def test_a_pipe_in_place_of_an_attempt_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    os.mkfifo(tmp_path / "spool" / "attempt_0.jsonl")
    (tmp_path / "spool" / "attempt_1.jsonl").symlink_to("/etc/hostname")
    assert SpoolReader(tmp_path / "spool").poll() == []
