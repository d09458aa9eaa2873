"""Archives that somebody else made: what is not as ``irtune export`` writes it is refused, and nothing is written."""

import json
import os
import stat
import struct
import warnings
import zipfile
from dataclasses import dataclass, field
from hashlib import sha256

import pytest
from recorded_studies import begun, trial
from saying import refused, says

from irtune.cli import main
from irtune.config.sweep_schema import SweepConfig
from irtune.results.archive import ArchiveError
from irtune.results.travel import export_study, import_study

NAME = "tiny-20261127-230158"
MANIFEST = "manifest.json"
RECORD = "trials/trial_0000/measured.jsonl"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study's archive."""
    folder = begun(tmp_path_factory.mktemp("storage") / NAME, SweepConfig)
    trial(folder, "trial_0000", 0.8)
    out = tmp_path_factory.mktemp("archive") / "study.zip"
    export_study(str(folder), out, folder.parent)
    return out


@dataclass
class Made:
    """An archive to be made: what is in it, in order, each with its own ``ZipInfo``."""

    entries: list[tuple[zipfile.ZipInfo, bytes]]
    changes: dict[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, file):
        with zipfile.ZipFile(file) as archive:
            return cls([(info, archive.read(info)) for info in archive.infolist() if info.filename != MANIFEST])

    def add(self, path, content=b"{}\n", mode=stat.S_IFREG | 0o644):
        info = zipfile.ZipInfo(path)
        info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
        self.entries.append((info, content))

    def content(self, path):
        return next(content for info, content in self.entries if info.filename == path)

    def replace(self, path, content):
        self.entries = [(info, content if info.filename == path else old) for info, old in self.entries]

    def manifest(self):
        files = {
            info.filename: {"size": len(content), "sha256": sha256(content).hexdigest()}
            for info, content in self.entries
        }
        return {"format": 1, "irtune": "0.1.0", "name": NAME, "kind": "sweep", "files": files} | self.changes

    def write(self, out, manifest=None):
        text = json.dumps(self.manifest() if manifest is None else manifest)
        with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as archive:
            # Of names that are there twice.
            warnings.simplefilter("ignore", UserWarning)
            for info, content in self.entries:
                archive.writestr(info, content)
            archive.writestr(MANIFEST, text)
        return out


@pytest.fixture
def made(whole):
    return Made.of(whole)


@pytest.fixture
def refuses(tmp_path):
    """Check that an import is refused with these facts, and leaves the disk as it was."""

    def check(file, *facts):
        before = sorted(tmp_path.rglob("*"))
        with refused(ArchiveError, *facts) as caught:
            import_study(file, tmp_path / "storage")
        assert sorted(tmp_path.rglob("*")) == before
        assert str(file) in str(caught.value)

    return check


def test_what_export_wrote_is_taken(made, tmp_path):
    imported = import_study(made.write(tmp_path / "a.zip"), tmp_path / "storage")
    assert imported.folder == tmp_path / "storage" / NAME
    assert (imported.folder / RECORD).read_bytes() == made.content(RECORD)


@pytest.mark.parametrize(
    "path",
    [
        "../evil.jsonl",
        "trials/../../evil.jsonl",
        f"../{NAME}/sweep.json",
        "..",
        "/etc/evil",
        "//host/evil",
        "C:/evil",
        "C:evil",
        "..\\evil",
        "trials\\..\\..\\evil",
        "trials/./driver.jsonl",
        "trials//driver.jsonl",
        "trials/trial_0001/",
        "trials/con/measured.jsonl",
        "trials/NUL.txt/measured.jsonl",
        "trials/lpt1/measured.jsonl",
        "trials/name /measured.jsonl",
        "trials/a\nb/measured.jsonl",
        "trials/a\u202eb/measured.jsonl",
        f"trials/{'x' * 256}/measured.jsonl",
    ],
)
def test_a_path_that_leaves_the_folder_or_is_no_file(made, path, refuses, tmp_path):
    made.add(path)
    refuses(made.write(tmp_path / "a.zip"), repr(path))


def test_what_stands_behind_a_zero_in_a_name(made, refuses, tmp_path):
    made.add("trials/t/measured.jsonlX../../../evil")
    file = made.write(tmp_path / "a.zip")
    file.write_bytes(file.read_bytes().replace(b"jsonlX", b"jsonl\0"))
    refuses(file)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFDIR, stat.S_IFSOCK])
def test_links_and_devices(made, kind, refuses, tmp_path):
    made.add("trials/t/adapter/README.md", b"/etc/passwd", kind | 0o777)
    refuses(
        made.write(tmp_path / "a.zip"),
        "trials/t/adapter/README.md",
        "is a link" if kind == stat.S_IFLNK else "is no file",
    )


@pytest.mark.parametrize("path", ["sweep.json", "Sweep.json", "trials/TRIAL_0000/measured.jsonl", MANIFEST])
def test_one_name_twice(made, path, refuses, tmp_path):
    made.add(path)
    refuses(made.write(tmp_path / "a.zip"), "is in it twice")


def test_a_file_that_is_a_folder_too(made, refuses, tmp_path):
    made.add("trials/trial_0000")
    refuses(made.write(tmp_path / "a.zip"), "both a file and a folder")


@pytest.mark.parametrize(
    "path",
    [
        "driver.json",
        "tracking.json",
        ".driver.lock",
        "trials/.hidden/measured.jsonl",
        "trials/t/checkpoints/step_000001/complete.json",
        "trials/t/adapter/adapter_model.bin",
        "tune_0/tuner.pkl",
        "sitecustomize.py",
        "mlflow.db",
    ],
)
def test_a_file_that_is_no_part_of_a_study(made, path, refuses, tmp_path):
    made.add(path)
    refuses(made.write(tmp_path / "a.zip"), path)


def test_what_the_manifest_does_not_list_and_what_it_lists_alone(made, refuses, tmp_path):
    manifest = made.manifest()
    del manifest["files"][RECORD]
    refuses(made.write(tmp_path / "a.zip", manifest), RECORD, "not in its manifest")
    manifest = made.manifest()
    manifest["files"]["best.yaml"] = manifest["files"][RECORD]
    refuses(made.write(tmp_path / "b.zip", manifest), "best.yaml", "not in it")
    made.entries = [entry for entry in made.entries if entry[0].filename != "sweep.json"]
    refuses(made.write(tmp_path / "c.zip"), "sweep.json", "no study")


def test_another_content_and_another_size(made, refuses, tmp_path):
    manifest = made.manifest()
    made.replace(RECORD, made.content(RECORD).replace(b"0.8", b"0.9"))
    refuses(made.write(tmp_path / "a.zip", manifest), RECORD, "SHA-256")
    made.replace(RECORD, made.content(RECORD) + b"\n")
    refuses(made.write(tmp_path / "b.zip", manifest), RECORD, "in its manifest")


def test_a_declared_size_that_is_not_the_real_one(made, refuses, tmp_path):
    size = len(made.content(RECORD))
    for number, declared in enumerate([size - 1, size + 1, 2**31]):
        manifest = made.manifest()
        manifest["files"][RECORD]["size"] = declared
        file = made.write(tmp_path / f"{number}.zip", manifest)
        content = file.read_bytes()
        # In the file's own header and in the directory at the end.
        assert content.count(struct.pack("<L", size)) == 2
        file.write_bytes(content.replace(struct.pack("<L", size), struct.pack("<L", declared)))
        refuses(file, RECORD)


def test_a_file_that_unpacks_to_far_more_than_it_is(made, refuses, tmp_path):
    made.add("trials/t/measured.jsonl", b"\0" * 2**23)
    refuses(made.write(tmp_path / "a.zip"), "trials/t/measured.jsonl", "8,388,608 bytes")


def test_what_is_encrypted_or_packed_otherwise(made, refuses, tmp_path):
    file = made.write(tmp_path / "a.zip")
    content = bytearray(file.read_bytes())
    place = content.rindex(b"PK\x01\x02")
    content[place + 8] |= 1
    file.write_bytes(content)
    refuses(file, "encrypted")
    made.entries[0][0].compress_type = zipfile.ZIP_LZMA
    refuses(made.write(tmp_path / "b.zip"), "packed in a way")


def test_a_truncated_archive(whole, refuses, tmp_path):
    content, file = whole.read_bytes(), tmp_path / "a.zip"
    for size in [*range(0, len(content), len(content) // 200), len(content) - 1]:
        file.write_bytes(content[:size])
        refuses(file)


def test_a_changed_archive_is_refused_or_means_the_same(whole, tmp_path):
    content, file = whole.read_bytes(), tmp_path / "a.zip"
    unpacked = sum(info.file_size for info in zipfile.ZipFile(whole).infolist())
    num_taken = 0
    for number, place in enumerate(range(0, len(content), len(content) // 100)):
        changed = bytearray(content)
        changed[place] ^= 0x10
        file.write_bytes(changed)
        storage = tmp_path / f"storage{number}"
        try:
            imported = import_study(file, storage)
        except ArchiveError:
            assert not storage.exists()
            continue
        # Dates, versions and the like are nothing that is read.
        num_taken += 1
        assert sum(path.stat().st_size for path in imported.folder.rglob("*") if path.is_file()) < unpacked
    assert num_taken < number / 2


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04", b"PK\x05\x06" + b"\0" * 18, b"\x1f\x8b"])
def test_no_archive_of_ours(content, refuses, tmp_path):
    file = tmp_path / "a.zip"
    file.write_bytes(content)
    refuses(file)


def test_nothing_to_read(refuses, tmp_path):
    refuses(tmp_path / "none.zip", "no such file")
    refuses(tmp_path, "no file")
    os.mkfifo(tmp_path / "pipe.zip")
    refuses(tmp_path / "pipe.zip", "no file")


@pytest.mark.parametrize("more", [{}, {"files": [], "volumes": 3}])
def test_a_newer_format(made, more, refuses, tmp_path):
    made.changes = {"format": 2, "irtune": "9.0.0", **more}
    refuses(made.write(tmp_path / "a.zip"), "newer", "9.0.0", "format 2", "up to 1", "update irtune")


@pytest.mark.parametrize(
    "manifest",
    [
        [],
        {},
        {"format": 0},
        {"format": True},
        {"format": "1"},
        {"format": 1},
        {"format": 1, "irtune": "0", "name": NAME, "kind": "sweep", "files": {"sweep.json": {"size": "many"}}},
    ],
)
def test_a_damaged_manifest(made, manifest, refuses, tmp_path):
    refuses(made.write(tmp_path / "a.zip", manifest), MANIFEST)


@pytest.mark.parametrize("name", ["..", "../other", "/tmp/other", "", ".hidden", "a/b", "a\\b", "nul", "a\0b"])
def test_a_study_that_would_lie_elsewhere(made, name, refuses, tmp_path):
    made.changes = {"name": name}
    refuses(made.write(tmp_path / "a.zip"), "no name of a folder")


def test_a_study_of_another_version(made, refuses, tmp_path):
    identity = json.loads(made.content("sweep.json"))
    made.replace("sweep.json", json.dumps(identity | {"format": 3}).encode())
    refuses(made.write(tmp_path / "a.zip"), "sweep.json", "format 3")
    made.replace("sweep.json", b"{}")
    refuses(made.write(tmp_path / "b.zip"), "sweep.json", "damaged")


def test_the_command_says_it_in_a_line(made, tmp_path, capsys):
    made.add("../evil")
    file = made.write(tmp_path / "a.zip")
    assert main(["import", str(file), "--storage", str(tmp_path / "storage")]) == 2
    told = capsys.readouterr().err
    assert says(told, "'../evil'", "leads out of")
    assert told.count("\n") == 1
    assert not (tmp_path / "storage").exists()
    assert not (tmp_path / "evil").exists()
