"""Files and folders are whole or not there."""

import pytest

from irtune.files import appearing


def write(target, content):
    with appearing(target) as partial:
        partial.write_text(content)
        assert not target.exists() or target.read_text() != content
        if content == "torn":
            raise OSError("full")


def test_a_file_takes_its_place_when_it_is_whole(tmp_path):
    target = tmp_path / "made" / "weights"
    for content in ("old", "new"):
        write(target, content)
        assert target.read_text() == content
    assert list(target.parent.iterdir()) == [target]


def test_what_fails_leaves_what_was_there_and_nothing_else(tmp_path):
    target = tmp_path / "weights"
    write(target, "old")
    with pytest.raises(OSError, match="full"):
        write(target, "torn")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_is_made_anew_over_what_a_kill_left(tmp_path):
    target = tmp_path / "model"
    left = tmp_path / ".model.partial"
    left.mkdir()
    (left / "torn").touch()
    with appearing(target) as partial:
        partial.mkdir()
        (partial / "weights").touch()
        assert partial == left
        assert not target.exists()
    assert [file.name for file in target.iterdir()] == ["weights"]
    assert list(tmp_path.iterdir()) == [target]
