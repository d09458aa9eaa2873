import pytest
from saying import refused

from irtune.plugins import nearest, resolve


def test_registered_name_wins():
    assert resolve("top_k", {"top_k": 1}) == 1


def test_anything_importable_resolves():
    assert resolve("irtune.plugins:nearest", {}) is nearest


def test_unknown_name_says_which_was_meant_and_what_there_is():
    with refused(ValueError, "'topk' … 'top_k'?", "available: all, top_k", "your own"):
        resolve("topk", {"top_k": 1, "all": 2})


def test_nothing_is_guessed_for_a_name_far_from_all():
    assert nearest("xyz", ["top_k", "all"]) == "available: all, top_k"


@pytest.mark.parametrize("name", ["no_such_module:X", "irtune.plugins:no_such_attribute", ":X", "irtune.plugins:"])
def test_what_cannot_be_imported_is_named(name):
    with pytest.raises(ValueError, match=r"cannot import|Empty module"):
        resolve(name, {})


def test_a_module_that_raises_is_named_with_what_it_raised(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("def (")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="cannot import 'broken_module:X': SyntaxError"):
        resolve("broken_module:X", {})


def test_what_is_of_another_kind_is_refused():
    with refused(ValueError, "'irtune.plugins:nearest' … dict"):
        resolve("irtune.plugins:nearest", {}, dict)
