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

from irtune.importance import Importance
from irtune.layers import SelectionRecord
from irtune.training import record as record_module
from irtune.training.record import (
    MEASURED,
    Record,
    RecordReader,
    RecordWriter,
    last_written_ms,
    result_of,
    size_bytes,
)


def refuse(token: str) -> None:
    raise AssertionError(f"{token} is not JSON")


@pytest.fixture
def trial_folder(tmp_path: Path) -> Path:
    return tmp_path / "trial"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_every_kind_comes_back_as_written(trial_folder: Path) -> None:
    writer = RecordWriter(trial_folder)
    writer.params({"selection": {"policy": {"k": 10}}, "adapter.targets": ["q", "v"], "nothing": None})
    writer.tags({"irtune.sweep": "a"})
    writer.metrics(3, {"train/loss": 0.5})
    writer.resumed(40)

    records = RecordReader(trial_folder).poll()

    times = [record.pop("time_ms") for record in records]
    assert records == [
        {
            "kind": "params",
            "values": {"selection.policy.k": "10", "adapter.targets": "['q', 'v']", "nothing": "None"},
            "settings": {"selection": {"policy": {"k": 10}}, "adapter.targets": ["q", "v"], "nothing": None},
            "attempt": 0,
        },
        {"kind": "tags", "values": {"irtune.sweep": "a"}, "attempt": 0},
        {"kind": "metrics", "step": 3, "values": {"train/loss": 0.5}, "attempt": 0},
        {"kind": "resumed", "step": 40, "attempt": 0},
    ]
    assert times == sorted(times)
    assert times[0] > 1_600_000_000_000


def test_numbers_that_json_lacks_survive_in_strict_json(trial_folder: Path) -> None:
    writer = RecordWriter(trial_folder)
    writer.metrics(0, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": np.float32(0.5)})
    importance = Importance(np.array([math.nan, math.inf, 1.0]), np.array([-1, 2, 3]), np.array([0, 1, 1]))
    writer.write(SelectionRecord(0, (1,), importance, 7))

    assert len(lines(trial_folder / MEASURED)) == 2
    metrics, selection = RecordReader(trial_folder).poll()
    assert math.isnan(metrics["values"].pop("a"))
    assert metrics["values"] == {"b": math.inf, "c": -math.inf, "d": 0.5}
    assert selection["scores"] == [None, math.inf, 1.0]
    assert (selection["active"], selection["measured_at"]) == ([1], [-1, 2, 3])


@given(st.dictionaries(st.text(), st.floats(width=64)), st.integers(0, 2**53))
def test_any_metrics_come_back(values: dict[str, float], step: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        writer = RecordWriter(Path(folder))
        writer.metrics(step, values)
        writer.close()
        (record,) = RecordReader(Path(folder)).poll()
    assert record["step"] == step
    assert list(record["values"]) == list(values)
    np.testing.assert_array_equal(list(record["values"].values()), list(values.values()))


@settings(max_examples=30)
@given(st.lists(st.integers(0, 400)), st.integers(1, 4))
def test_a_file_that_grows_anyhow_is_read_once_and_in_order(cuts: list[int], limit: int) -> None:
    content = "".join(json.dumps({"kind": "resumed", "attempt": 0, "step": step}) + "\n" for step in range(10)).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MEASURED
        reader = RecordReader(Path(folder))
        records: list[Record] = []
        for cut in [*sorted(cuts), len(content)]:
            path.write_bytes(content[:cut])
            while new := reader.poll(limit):
                assert len(new) <= limit
                records += new
    assert [record["step"] for record in records] == list(range(10))


def test_a_record_can_be_read_as_soon_as_it_is_written(trial_folder: Path) -> None:
    reader = RecordReader(trial_folder)
    assert reader.poll() == []
    writer = RecordWriter(trial_folder)
    for step in range(3):
        writer.resumed(step)
        assert [record["step"] for record in reader.poll()] == [step]


def test_a_torn_last_line_waits_until_it_is_complete(trial_folder: Path) -> None:
    RecordWriter(trial_folder).resumed(1)
    line = (trial_folder / MEASURED).read_bytes()
    reader = RecordReader(trial_folder)
    assert len(reader.poll()) == 1
    for number in range(len(line)):
        assert reader.poll() == []
        with (trial_folder / MEASURED).open("ab") as file:
            file.write(line[number : number + 1])
    assert [record["step"] for record in reader.poll()] == [1]


def test_a_last_line_torn_at_any_byte_costs_only_itself(trial_folder: Path) -> None:
    file = trial_folder / MEASURED
    first = RecordWriter(trial_folder)
    first.metrics(5, {"loss": 1.0})
    whole = file.read_bytes()
    first.result({"step": 6, "final": True})
    line = file.read_bytes()[len(whole) :]
    for length in range(len(line)):
        file.write_bytes(whole + line[:length])
        early = RecordReader(trial_folder)
        assert len(early.poll()) == 1
        assert result_of(trial_folder) is None
        RecordWriter(trial_folder).metrics(6, {"loss": 2.0})
        # Whoever had read up to the torn line goes on behind it.
        assert [(record["attempt"], record["step"]) for record in early.poll()] == [(1, 6)]
        records = RecordReader(trial_folder).poll()
        assert [(record["attempt"], record["step"]) for record in records] == [(0, 5), (1, 6)]


def test_a_torn_line_is_cut_off_however_long_it_is(trial_folder: Path) -> None:
    RecordWriter(trial_folder).resumed(1)
    size = size_bytes(trial_folder)
    with (trial_folder / MEASURED).open("ab") as file:
        file.write(b"x" * 200_000)
    RecordWriter(trial_folder).close()
    assert size_bytes(trial_folder) == size
    (trial_folder / MEASURED).write_bytes(b"x" * 200_000)
    RecordWriter(trial_folder).close()
    assert size_bytes(trial_folder) == 0


@pytest.mark.parametrize(
    "junk",
    [
        b"\x00\x00\x00\n",
        b"{}\n",
        b"[1]\n",
        b'{"kind":"resumed","step":1}\n',
        b'{"kind":"metrics","attempt":0,"values":{"a":"b"}}\n',
        b'{"kind":"result","attempt":0,"values":{"a":"b"}}\n',
        b'{"kind":"result","attempt":0,"values":["a"]}\n',
    ],
)
def test_a_complete_line_that_is_no_record_is_passed_over_with_a_warning(
    trial_folder: Path, junk: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    trial_folder.mkdir(parents=True)
    good = b'{"kind": "resumed", "attempt": 0, "step": 1}\n'
    (trial_folder / MEASURED).write_bytes(good + junk + good)
    assert len(RecordReader(trial_folder).poll()) == 2
    assert f"{MEASURED}, byte {len(good)}" in caplog.text
    assert result_of(trial_folder) is None


def test_each_attempt_that_wrote_counts(trial_folder: Path) -> None:
    for attempt in range(12):
        writer = RecordWriter(trial_folder)
        assert writer.attempt == attempt
        writer.resumed(attempt)
        writer.close()
        RecordWriter(trial_folder).close()
    records = RecordReader(trial_folder).poll()
    assert [(record["attempt"], record["step"]) for record in records] == [(n, n) for n in range(12)]


def test_a_worker_that_was_cut_off_is_told_from_the_one_after_it(trial_folder: Path) -> None:
    zombie = RecordWriter(trial_folder)
    zombie.resumed(1)
    present = RecordWriter(trial_folder)
    present.resumed(2)
    zombie.resumed(3)
    present.resumed(4)
    records = RecordReader(trial_folder).poll()
    assert [(record["attempt"], record["step"]) for record in records] == [(0, 1), (1, 2), (0, 3), (1, 4)]
    # Whatever it wrote last.
    zombie.resumed(5)
    assert RecordWriter(trial_folder).attempt == 2


RESULT = {"step": 8, "final": True, "final/test_f1_macro": 0.25, "final/test_loss": math.inf, "cost/train_s": 0.1}


def test_a_result_is_the_last_line_and_comes_back_as_it_was_reported(trial_folder: Path) -> None:
    assert result_of(trial_folder) is None
    writer = RecordWriter(trial_folder)
    writer.metrics(8, {"final/test_f1_macro": 0.25})
    assert result_of(trial_folder) is None
    writer.result(RESULT)
    assert lines(trial_folder / MEASURED)[-1]["kind"] == "result"
    assert result_of(trial_folder) == RESULT
    assert RecordReader(trial_folder).poll()[-1]["values"] == RESULT
    # An attempt that finds it has said where it runs before it looked.
    again = RecordWriter(trial_folder)
    again.tags({"irtune.engine.node.rank_0": "127.0.0.1"})
    assert result_of(trial_folder) == RESULT
    again.result(RESULT)
    assert lines(trial_folder / MEASURED)[-1]["attempt"] == 1


def test_a_result_is_on_the_disk_when_it_is_said(trial_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(record_module.os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    writer = RecordWriter(trial_folder)
    writer.metrics(8, {"loss": 0.25})
    assert synced == []
    writer.result(RESULT)
    assert synced == [size_bytes(trial_folder)]


def test_of_a_long_record_only_the_end_is_read_for_its_result(
    trial_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial_folder.mkdir()
    with (trial_folder / MEASURED).open("wb") as file:
        # A terabyte, of which nothing is on the disk.
        file.truncate(2**40)
        file.seek(0, os.SEEK_END)
        file.write(b'\n{"kind":"result","attempt":0,"values":{"step":8}}\n')
    assert result_of(trial_folder) == {"step": 8}


def test_how_much_was_written_and_when(trial_folder: Path) -> None:
    assert (size_bytes(trial_folder), last_written_ms(trial_folder)) == (0, None)
    RecordWriter(trial_folder).resumed(1)
    os.utime(trial_folder / MEASURED, (70, 70))
    assert size_bytes(trial_folder) == (trial_folder / MEASURED).stat().st_size > 0
    assert last_written_ms(trial_folder) == 70_000


def test_an_artifact_is_found_after_the_storage_has_moved(tmp_path: Path) -> None:
    trial = tmp_path / "here" / "trial"
    writer = RecordWriter(trial)
    writer.artifact(trial / "trace" / "layers.png", "trace")
    with pytest.raises(ValueError, match="lies outside of"):
        writer.artifact(tmp_path / "elsewhere.txt", "")
    writer.close()
    moved = (tmp_path / "here").rename(tmp_path / "there")

    (inside,) = RecordReader(moved / "trial").poll()

    assert (inside["folder"], inside["path"]) == (str(moved / "trial"), "trace/layers.png")
    assert inside["artifact_folder"] == "trace"


def test_what_people_may_read_in_mlflow_holds_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "from-the-environment")
    writer = RecordWriter(tmp_path)
    writer.params({"data.path": "https://me:planted@host/x.csv", "engine.deepspeed.api_key": "planted", "data.k": 3})
    writer.tags({"note": "it said from-the-environment"})
    writer.close()
    params, tags = RecordReader(tmp_path).poll()
    assert params["values"] == {"data.path": "https://host/x.csv", "engine.deepspeed.api_key": "***", "data.k": "3"}
    assert params["settings"] == params["values"] | {"data.k": 3}
    assert tags["values"] == {"note": "it said ***"}
