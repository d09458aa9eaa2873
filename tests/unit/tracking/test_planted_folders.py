"""Folders that somebody else put into the storage: neither where they point to hears of us, nor do our files leave."""

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from stores import stored_runs

from irtune.cli import main
from irtune.files import read_json
from irtune.tracking.contained import OutsideError, files_inside
from irtune.tracking.heartbeat import is_live
from irtune.tracking.left_behind import close_dead
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.outbox import StoreAddress, find_sweeps, sync, write_address
from irtune.tracking.run_record import DRIVER_RECORD, Ended, Opened, RunRecord
from irtune.training.record import MEASURED, RecordReader, RecordWriter, last_written_ms, result_of, size_bytes

FINISHED = Ended("FINISHED", {}, None, 61_000)
TOKEN = "the token of whoever comes next"
KEY = "-----the private key of whoever comes next-----"


@dataclass
class Listener:
    """A server that notes every request made to it."""

    uri: str
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def listener() -> Iterator[Listener]:
    heard = Listener("")

    class Handler(BaseHTTPRequestHandler):
        def handle(self) -> None:
            heard.requests.append(self.connection.recv(65536).decode(errors="replace"))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    heard.uri = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield heard
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def credentials(tracker: MlflowTracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "home" / "id_ed25519"
    file.parent.mkdir()
    file.write_text(KEY)
    return file


def artifact(path: str) -> str:
    """The line of a record that names a file to upload."""
    return json.dumps({"kind": "artifact", "attempt": 0, "time_ms": 1, "path": path, "artifact_folder": ""}) + "\n"


def plant(folder: Path, uri: str, *artifacts: str) -> Path:
    """A sweep with a run that MLflow lacks, whose record names artifacts; returns the run's folder."""
    write_address(folder, uri, "irtune")
    run_record = RunRecord(folder / "trials" / "a")
    run_record.begin(Opened(f"{folder.name}/a", "n", {}, 1_000))
    run_record.finish(FINISHED)
    (run_record.folder / MEASURED).write_text("".join(map(artifact, artifacts)))
    return run_record.folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "storage" / f"sweep-{uuid.uuid4().hex}"


def uploads(store_uri: str) -> bytes:
    """Everything that the store has taken as an artifact."""
    root = Path(store_uri.removeprefix("sqlite:///")).parent / "mlartifacts"
    return b"".join(file.read_bytes() for file in root.rglob("*") if file.is_file())


def names_of(store_uri: str, folder: Path) -> set[str]:
    return {key for key in stored_runs(store_uri) if key.startswith(f"{folder.name}/")}


def belong_to_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process another user's, since tests may not give files away."""
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)


def test_a_new_sweep_does_not_send_to_where_a_folder_says(folder: Path, listener: Listener, store_uri: str) -> None:
    plant(folder, listener.uri)
    assert close_dead(folder.parent, store_uri) == []
    assert listener.requests == []
    assert names_of(store_uri, folder) == set()


def test_a_new_sweep_does_not_touch_folders_of_other_users(
    folder: Path, store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(folder, store_uri)
    before = sorted(folder.rglob("*"))
    with monkeypatch.context() as another:
        belong_to_another_user(another)
        assert close_dead(folder.parent, store_uri) == []
    assert sorted(folder.rglob("*")) == before
    assert names_of(store_uri, folder) == set()
    assert close_dead(folder.parent, store_uri) == [folder.name]


def test_a_new_sweep_does_not_follow_a_link_nor_trust_a_folder_that_all_may_write(
    tmp_path: Path, folder: Path, store_uri: str
) -> None:
    plant(tmp_path / "elsewhere" / folder.name, store_uri)
    folder.parent.mkdir()
    folder.symlink_to(tmp_path / "elsewhere" / folder.name)
    other = folder.with_name(f"{folder.name}-open")
    plant(other, store_uri)
    other.chmod(0o777)
    assert close_dead(folder.parent, store_uri) == []
    assert names_of(store_uri, folder) == set()


def test_a_storage_that_is_itself_behind_a_link_is_fine(tmp_path: Path, folder: Path, store_uri: str) -> None:
    plant(folder, store_uri)
    (tmp_path / "link").symlink_to(folder.parent)
    assert close_dead(tmp_path / "link", store_uri) == [folder.name]


def test_sync_sends_to_a_server_only_if_the_user_says_so(
    folder: Path, listener: Listener, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(folder, listener.uri)
    assert main(["sync", str(folder.parent)]) == 1
    assert listener.requests == []
    assert f"--tracking-uri {listener.uri}" in capsys.readouterr().out
    assert main(["sync", str(folder.parent), "--tracking-uri", listener.uri]) == 1
    assert TOKEN in listener.requests[0]


def test_sync_asks_before_it_touches_folders_of_other_users(
    folder: Path, store_uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(folder, store_uri)
    belong_to_another_user(monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    assert main(["sync", str(folder)]) == 1
    assert "belongs to another user" in capsys.readouterr().out
    assert names_of(store_uri, folder) == set()
    assert main(["sync", str(folder), "--tracking-uri", store_uri]) == 0
    assert names_of(store_uri, folder) == {f"{folder.name}/a"}


def test_a_link_that_the_user_names_himself_is_his_folder(tmp_path: Path, folder: Path, store_uri: str) -> None:
    plant(folder, store_uri)
    (tmp_path / "link").symlink_to(folder)
    assert find_sweeps([tmp_path / "link"]) == [folder]
    assert main(["sync", str(tmp_path / "link")]) == 0


Lure = Callable[[Path, Path], str]


def absolute(run: Path, secret: Path) -> str:
    return str(secret)


def upwards(run: Path, secret: Path) -> str:
    return os.path.relpath(secret, run)


def link_to_file(run: Path, secret: Path) -> str:
    (run / "adapter").mkdir()
    (run / "adapter" / "weights").symlink_to(secret)
    return "adapter/weights"


def link_to_folder(run: Path, secret: Path) -> str:
    (run / "adapter").symlink_to(secret.parent)
    return "adapter"


def file_behind_a_linked_folder(run: Path, secret: Path) -> str:
    (run / "adapter").symlink_to(secret.parent)
    return f"adapter/{secret.name}"


def link_within_a_folder(run: Path, secret: Path) -> str:
    link_to_file(run, secret)
    return "adapter"


def linked_folder_within_a_folder(run: Path, secret: Path) -> str:
    (run / "adapter").mkdir()
    (run / "adapter" / "more").symlink_to(secret.parent)
    return "adapter"


def second_name(run: Path, secret: Path) -> str:
    (run / "weights").hardlink_to(secret)
    return "weights"


def pipe(run: Path, secret: Path) -> str:
    os.mkfifo(run / "pipe")
    return "pipe"


def pipe_within_a_folder(run: Path, secret: Path) -> str:
    (run / "adapter").mkdir()
    os.mkfifo(run / "adapter" / "pipe")
    return "adapter"


def endless(run: Path, secret: Path) -> str:
    (run / "zero").symlink_to("/dev/zero")
    return "zero"


LURES = [
    absolute, upwards, link_to_file, link_to_folder, file_behind_a_linked_folder, link_within_a_folder,
    linked_folder_within_a_folder, second_name, pipe, pipe_within_a_folder, endless,
]  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.parametrize("by", ["trial", "driver"])
@pytest.mark.parametrize("lure", LURES, ids=lambda lure: lure.__name__)
def test_nothing_outside_of_a_runs_folder_is_uploaded(
    lure: Lure,
    by: str,
    folder: Path,
    secret: Path,
    store_uri: str,
    tracker: MlflowTracker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = plant(folder, store_uri)
    (run / "harmless.txt").write_text(f"harmless {folder.name}")
    named = [lure(run, secret), "harmless.txt"]
    with (run / (MEASURED if by == "trial" else DRIVER_RECORD)).open("a") as file:
        file.write("".join(map(artifact, named)))
    result = sync(folder, lambda _: tracker)
    assert (result.num_runs, result.left) == (1, {})
    sent = uploads(store_uri)
    assert KEY.encode() not in sent
    assert f"harmless {folder.name}".encode() in sent
    assert "artifact" in caplog.text


def test_a_link_that_comes_in_between_leads_nowhere(tmp_path: Path, secret: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").write_text("mine")
    for where, file in files_inside(tmp_path / "run", "file", []):
        (tmp_path / "run" / "file").unlink()
        (tmp_path / "run" / "file").symlink_to(secret)
        assert (where, file.name, file.read_text()) == ("", "file", "mine")


def test_all_of_a_folder_is_read_where_it_lies(tmp_path: Path) -> None:
    for name in ("b.txt", "deep/er/c.txt", "a.txt"):
        (tmp_path / "run/kept" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run/kept" / name).write_text(name)
    refused: list[str] = []
    found = [(where, file.read_text()) for where, file in files_inside(tmp_path / "run", "kept", refused)]
    assert (found, refused) == ([("", "a.txt"), ("", "b.txt"), ("deep/er", "deep/er/c.txt")], [])
    num_open = len(os.listdir("/proc/self/fd"))
    for wrong, error in (("gone", FileNotFoundError), ("..", OutsideError), ("", OutsideError), ("/etc", OutsideError)):
        with pytest.raises(error):
            list(files_inside(tmp_path / "run", wrong, refused))
    assert len(os.listdir("/proc/self/fd")) == num_open


def test_runs_behind_links_are_left_alone(tmp_path: Path, folder: Path, store_uri: str, tracker: MlflowTracker) -> None:
    plant(folder, store_uri)
    theirs = plant(tmp_path / "theirs" / "sweep", store_uri)
    (folder / "trials" / "b").symlink_to(theirs)
    assert sync(folder, lambda _: tracker).num_runs == 1
    assert names_of(store_uri, folder) == {f"{folder.name}/a"}


def a_link(file: Path, secret: Path) -> None:
    file.symlink_to(secret)


def a_hard_link(file: Path, secret: Path) -> None:
    file.hardlink_to(secret)


def a_pipe(file: Path, secret: Path) -> None:
    os.mkfifo(file)


def a_folder(file: Path, secret: Path) -> None:
    file.mkdir()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", [MEASURED, DRIVER_RECORD])
@pytest.mark.parametrize("plant_it", [a_link, a_hard_link, a_pipe, a_folder])
def test_neither_record_is_read_or_written_through_something_else(
    plant_it: Callable[[Path, Path], None],
    name: str,
    folder: Path,
    secret: Path,
    store_uri: str,
    tracker: MlflowTracker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = plant(folder, store_uri)
    (run / name).unlink()
    plant_it(run / name, secret)
    # A torn last line would be cut off.
    secret.write_text(f"{KEY}\ntorn")
    assert sync(folder, lambda _: tracker).num_runs == 0
    assert names_of(store_uri, folder) == set()
    assert "a run is left alone" in caplog.text
    if name == MEASURED:
        assert RecordReader(run).poll() == []
        assert (size_bytes(run), last_written_ms(run), result_of(run)) == (0, None, None)
        with pytest.raises(ValueError, match=rf"{name}: .*take it away"):
            RecordWriter(run)
    else:
        record = RunRecord(run)
        for use in (record.start, record.end, record.artifacts, lambda: record.finish(FINISHED)):
            with pytest.raises(ValueError, match=rf"{name}: .*take it away"):
                use()
        assert not record.is_sent()
        # A driver that goes on with it puts a file of its own there.
        record.begin(Opened("key", "n", {}, 1_000))
        assert record.start().key == "key"
    assert secret.read_text() == f"{KEY}\ntorn"


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give files away")
@pytest.mark.parametrize("name", [MEASURED, DRIVER_RECORD])
def test_a_record_of_another_user_is_left_alone(
    name: str, folder: Path, store_uri: str, tracker: MlflowTracker
) -> None:
    os.chown(plant(folder, store_uri) / name, 12345, -1)
    assert sync(folder, lambda _: tracker).num_runs == 0
    assert names_of(store_uri, folder) == set()


@pytest.mark.timeout(30)
def test_pipes_in_place_of_small_files_are_not_waited_for(tmp_path: Path, folder: Path, store_uri: str) -> None:
    other = folder.with_name(f"{folder.name}-b")
    other.mkdir(parents=True)
    os.mkfifo(other / "tracking.json")
    os.mkfifo(other / "driver.json")
    assert close_dead(folder.parent, store_uri) == []
    assert not is_live(other)
    with pytest.raises(ValueError, match=r"tracking\.json: is no file"):
        read_json(other / "tracking.json", StoreAddress)
    with (tmp_path / "huge.json").open("wb") as huge:
        huge.truncate(2**40)
    (tmp_path / DRIVER_RECORD).hardlink_to(tmp_path / "huge.json")
    (tmp_path / "huge.json").unlink()
    started_s = time.monotonic()
    with pytest.raises(ValueError, match="is larger than"):
        RunRecord(tmp_path).start()
    with pytest.raises(ValueError, match="is larger than"):
        read_json((tmp_path / DRIVER_RECORD).rename(tmp_path / "tracking.json"), StoreAddress)
    assert time.monotonic() - started_s < 10


def test_a_lock_that_is_a_link_harms_nothing(folder: Path, secret: Path, store_uri: str) -> None:
    plant(folder, store_uri)
    (folder / ".driver.lock").symlink_to(secret)
    main(["sync", str(folder), "--tracking-uri", store_uri])
    assert secret.read_text() == KEY
