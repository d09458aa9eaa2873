"""What results come from can be read off them."""

import subprocess
from importlib.metadata import version

import pytest

from irtune.studies import provenance
from irtune.studies.provenance import PACKAGES, environment, git_commit


def git(folder, *arguments):
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A working directory with one commit."""
    git(tmp_path, "init")
    (tmp_path / "sweep.yaml").write_text("name: a\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "a sweep")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commit_of_the_folder_that_a_sweep_is_started_in(repository):
    commit = git(repository, "rev-parse", "--short=12", "HEAD")
    assert git_commit() == commit
    (repository / "sweep.yaml").write_text("name: b\n")
    assert git_commit() == f"{commit}-dirty"


def test_outside_of_a_repository_it_is_the_commit_of_irtune_itself(repository, tmp_path_factory, monkeypatch):
    commit = git_commit()
    monkeypatch.setattr(provenance, "__file__", str(repository / "provenance.py"))
    monkeypatch.chdir(tmp_path_factory.mktemp("no_repository"))
    assert git_commit() == commit
    monkeypatch.setattr(provenance, "__file__", str(tmp_path_factory.mktemp("installed") / "provenance.py"))
    assert git_commit() == "unknown"


def test_a_machine_without_git(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit() == "unknown"


def test_versions_and_machine(repository):
    found = environment()
    assert {name: found[name] for name in PACKAGES} == {name: version(name) for name in PACKAGES}
    assert found["git commit"] == git_commit()
    assert "CPUs" in found["machine"]
    assert found["python"].startswith("3.")
