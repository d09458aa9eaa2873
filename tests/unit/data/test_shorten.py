"""What is shown of texts that do not fit: the change first, what lies between changes next, the context last."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irtune.data.shorten import GAP, MAX_COMPARED, Shortened, ranks

WORDS = st.lists(st.sampled_from(["one", "two", "three", "four"]), max_size=12)


def revision(before, after):
    return Shortened((before, after), "revisions")


def test_the_whole_change_comes_before_any_context():
    steady = " ".join(["steady"] * 200)
    shortened = revision(f"{steady} old7", f"{steady} new7")
    assert shortened.num_changed == 1
    assert shortened.show(1) == ("old7", "new7")
    assert shortened.show(3) == ("steady steady old7", "steady steady new7")
    assert shortened.show(shortened.num_ranks) == (f"{steady} old7", f"{steady} new7")


def test_context_grows_on_both_sides_of_the_change_alike():
    shortened = revision("a b c d OLD e f g h", "a b c d NEW e f g h")
    assert shortened.show(2) == ("d OLD", "d NEW")
    assert shortened.show(3) == ("d OLD e", "d NEW e")
    assert shortened.show(5) == ("c d OLD e f", "c d NEW e f")
    assert revision("a b c d OLD e", "a b c d NEW e").show(4) == ("c d OLD e", "c d NEW e")


def test_what_lies_between_two_changes_comes_before_head_and_tail():
    shortened = revision("h1 h2 OLD m1 m2 m3 OLD t1 t2", "h1 h2 NEW m1 m2 m3 NEW t1 t2")
    assert shortened.num_changed == 2
    assert shortened.show(2) == (f"OLD{GAP} OLD", f"NEW{GAP} NEW")
    assert shortened.show(4) == ("OLD m1 m2 m3 OLD", "NEW m1 m2 m3 NEW")
    assert shortened.show(6) == ("h2 OLD m1 m2 m3 OLD t1", "h2 NEW m1 m2 m3 NEW t1")


def test_a_change_that_does_not_fit_is_shown_from_its_start_on_both_sides():
    long = " ".join(f"word{i}" for i in range(300))
    shortened = revision(long, "after label")
    assert shortened.num_changed == 300
    assert shortened.show(4) == ("word0 word1 word2 word3", "after label")


@pytest.mark.parametrize(("before", "after"), [("", "some new text"), ("some old text", "")])
def test_of_an_addition_or_deletion_the_text_is_the_change(before, after):
    assert revision(before, after).num_changed == 3
    assert revision(before, after).show(2) == tuple(" ".join(text.split()[:2]) for text in (before, after))


def test_an_edit_of_white_space_is_a_change():
    shortened = revision("a b,  c d e", "a b, c d e")
    assert shortened.num_changed == 1
    assert shortened.show(1) == ("c", "c")
    assert shortened.show(3) == ("b,  c d", "b, c d")


def test_white_space_is_no_change_beside_words_that_changed():
    assert revision("a  b  OLD c", "a b NEW c").num_changed == 1
    assert revision("a  b  OLD c", "a b NEW c").show(1) == ("OLD", "NEW")


def test_without_any_change_texts_are_shown_from_their_start():
    assert revision("a b c d", "a b c d").show(2) == ("a b", "a b")
    assert revision("a b c d", "a b c d").num_changed == 0


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [("这是一个旧的句子", "这是一个新的句子", ("个旧", "个新")), ("x" * 400, "y" * 400, ("x" * 48, "y" * 48))],
)
def test_texts_without_spaces_can_be_cut_too(before, after, shown):
    assert revision(before, after).show(2) == shown


def test_other_texts_are_shown_from_their_start():
    assert Shortened(("a b c d", "x y"), "pairs").show(3) == ("a b c", "x y")
    assert Shortened(("a b c d",), "texts").show(2) == ("a b",)
    assert Shortened(("a b c d",), "texts").num_changed == 0


def test_long_changes_are_taken_as_one_without_comparing_every_pair():
    many = int(MAX_COMPARED**0.5) + 1
    before, after, changed = ranks([f"a{i}" for i in range(many)], [f"b{i}" for i in range(many)])
    assert before == after == list(range(many))
    assert changed == many


@settings(max_examples=300, deadline=None)
@given(WORDS, WORDS)
def test_more_ranks_show_more_and_all_of_them_everything(before, after):
    texts = " ".join(before), " ".join(after)
    shortened = Shortened(texts, "revisions")
    assert shortened.show(shortened.num_ranks) == texts
    assert shortened.show(0) == ("", "")
    lengths = [
        [len(text.replace(GAP, "").split()) for text in shortened.show(n)] for n in range(shortened.num_ranks + 1)
    ]
    for fewer, more in itertools.pairwise(lengths):
        assert all(a <= b for a, b in zip(fewer, more, strict=True))
        assert fewer != more


@settings(max_examples=300, deadline=None)
@given(WORDS, WORDS, WORDS, WORDS)
def test_the_middle_between_common_head_and_tail_is_whole_before_any_of_these_is_shown(head, tail, old, new):
    before, after = [*head, "OLD", *old, "OLD", *tail], [*head, "NEW", *new, "NEW", *tail]
    shortened = Shortened((" ".join(before), " ".join(after)), "revisions")
    middle = (
        " ".join(before[len(head) : len(before) - len(tail)]),
        " ".join(after[len(head) : len(after) - len(tail)]),
    )
    assert middle in [shortened.show(n) for n in range(shortened.num_ranks + 1)]
