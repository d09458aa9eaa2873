"""A disk without room: who writes waits until there is some, and what was written half is whole in the end."""

import errno

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from saying import each_says

from irtune import files
from irtune.files import once_there_is_room
from irtune.search.journal import StudyStorage
from irtune.training.record import RecordReader, RecordWriter

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(autouse=True)
def slept(monkeypatch):
    """Seconds slept; the clock stands still meanwhile but for those."""
    slept = []
    monkeypatch.setattr(files.time, "sleep", slept.append)
    monkeypatch.setattr(files.time, "monotonic", lambda: sum(slept))
    return slept


def failing(*errors):
    """A function that raises these one after the other, and then returns how often it was called."""
    left = list(errors)

    def write():
        if left:
            raise left.pop(0)
        return len(errors) + 1

    return write


@pytest.mark.parametrize(
    "error",
    [FULL, OSError(errno.EDQUOT, "quota"), RuntimeError("I/O error: No space left on device (os error 28)")],
    ids=["disk", "quota", "rust"],
)
def test_what_is_written_waits_for_room(error, slept, caplog):
    assert once_there_is_room(failing(error, error), "weights") == 3
    assert len(slept) == 2
    assert each_says([record.message for record in caplog.records], ("weights: no room … disk … 300 s",))


def test_another_error_is_raised_at_once(slept):
    with pytest.raises(PermissionError):
        once_there_is_room(failing(PermissionError(errno.EACCES, "no")), "weights")
    assert slept == []


def test_nobody_waits_for_ever(slept, caplog):
    with pytest.raises(OSError, match="No space"):
        once_there_is_room(failing(*[FULL] * 1000), "weights", limit_s=150)
    assert 150 < sum(slept) < 152
    # Once a minute it is said.
    assert len(caplog.records) == 3


class Nearly:
    """A file on a disk on which three bytes fit, then none, then all."""

    def __init__(self, file):
        self.file = file
        self.room = [3, None]

    def write(self, content):
        if not self.room:
            return self.file.write(content)
        fits = self.room.pop(0)
        if fits is None:
            raise FULL
        return self.file.write(content[:fits])

    def close(self):
        self.file.close()


def test_a_record_that_fitted_in_part_is_whole_in_the_end(tmp_path):
    writer = RecordWriter(tmp_path)
    writer._file = Nearly(writer._file)
    writer.metrics(1, {"train/loss": 0.5})
    writer.metrics(2, {"train/loss": 0.4})
    writer.close()
    assert [(r["step"], r["values"]) for r in RecordReader(tmp_path).poll()] == [
        (1, {"train/loss": 0.5}),
        (2, {"train/loss": 0.4}),
    ]


def study_in(path):
    return optuna.create_study(storage=StudyStorage(path), study_name="s", load_if_exists=True)


def test_a_study_goes_on_when_there_is_room_again(tmp_path, monkeypatch, slept):
    study = study_in(tmp_path / "study.journal")
    whole = JournalFileBackend.append_logs
    times = [2]

    def in_part(self, logs):
        if times[0]:
            times[0] -= 1
            with open(tmp_path / "study.journal", "ab") as file:
                file.write(b'{"op_code":')
            raise FULL
        whole(self, logs)

    monkeypatch.setattr(JournalFileBackend, "append_logs", in_part)
    study.tell(study.ask(), 0.5)
    assert len(slept) == 2
    assert [trial.value for trial in study_in(tmp_path / "study.journal").trials] == [0.5]


def test_a_line_that_a_killed_driver_tore_costs_only_itself(tmp_path):
    path = tmp_path / "study.journal"
    study = study_in(path)
    study.tell(study.ask(), 0.5)
    with path.open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    again = study_in(path)
    again.tell(again.ask(), 0.6)
    assert [trial.value for trial in study_in(path).trials] == [0.5, 0.6]
