"""Sampling keeps labels in proportion and in every split, what belongs together whole, and the seed's answer."""

import itertools
import random
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from saying import refused

from irtune.data.equal_texts import connected, text_key
from irtune.data.sampling import split_three_ways, stratified_sample

FRACTIONS = st.tuples(st.floats(0.02, 0.45), st.floats(0.02, 0.45))


@given(labels=st.lists(st.sampled_from("abc"), min_size=1, max_size=60), data=st.data())
def test_a_sample_holds_each_label_in_its_share_where_none_would_be_lost(labels, data):
    size = data.draw(st.integers(0, len(labels)))
    chosen = stratified_sample(labels, size, seed=data.draw(st.integers(0, 100)))
    assert chosen == sorted(set(chosen))
    assert len(chosen) == size
    counts = Counter(labels[row] for row in chosen)
    shares = {label: Fraction(total * size, len(labels)) for label, total in Counter(labels).items()}
    if all(share >= 1 for share in shares.values()):
        assert all(abs(counts[label] - share) < 1 for label, share in shares.items())
    # A label that gets a row which it has no share of costs others no more than that row.
    extra = sum(max(0, 1 - share) for share in shares.values()) if size >= len(shares) else 0
    assert all(abs(counts[label] - share) < 1 + extra for label, share in shares.items())


@given(st.lists(st.integers(0, 12), min_size=1, max_size=80), st.integers(0, 1000), st.data())
def test_a_sample_loses_no_label_that_it_has_room_for(labels, seed, data):
    labels = [f"label {number}" for number in labels]
    size = data.draw(st.integers(len(set(labels)), len(labels)))
    assert {labels[row] for row in stratified_sample(labels, size, seed)} == set(labels)


def test_a_sample_of_equal_shares_is_exact():
    labels = ["a"] * 40 + ["b"] * 20 + ["c"] * 20
    for seed in range(20):
        assert Counter(labels[row] for row in stratified_sample(labels, 8, seed)) == {"a": 4, "b": 2, "c": 2}


def test_a_sample_depends_on_the_seed_alone():
    labels = ["a", "b"] * 50
    assert stratified_sample(labels, 10, seed=3) == stratified_sample(labels, 10, seed=3)
    assert stratified_sample(labels, 10, seed=3) != stratified_sample(labels, 10, seed=4)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=12), FRACTIONS, st.integers(0, 10_000))
@settings(deadline=None, max_examples=200)
def test_every_label_of_three_rows_is_in_every_drawn_split(counts, fractions, seed):
    labels = [f"label {number}" for number, count in enumerate(counts) for _ in range(count)]
    assume(len(labels) >= 3)
    random.Random(seed).shuffle(labels)
    parts = split_three_ways(labels, None, *fractions, seed)
    assert sorted(row for part in parts for row in part) == list(range(len(labels)))
    for part in parts:
        assert {f"label {number}" for number, count in enumerate(counts) if count >= 3} <= {labels[r] for r in part}
        assert part


def one_way_exists(held_by_set):
    """Whether sets of labels can be put into three splits so that every label of three sets is in each, by trying."""
    counts = Counter(label for held in held_by_set for label in held)
    common = {label for label, count in counts.items() if count >= 3}
    for places in itertools.product(range(3), repeat=len(held_by_set)):
        parts = [set().union(*(h for h, at in zip(held_by_set, places, strict=True) if at == p)) for p in range(3)]
        if set(places) == {0, 1, 2} and all(common <= part for part in parts):
            return True
    return False


@given(
    st.lists(st.sets(st.sampled_from("abcde"), min_size=1, max_size=4), min_size=3, max_size=7),
    FRACTIONS,
    st.integers(0, 10_000),
    st.booleans(),
)
@settings(deadline=None, max_examples=150)
def test_every_label_of_three_groups_is_in_every_split_wherever_that_can_be(held_by_set, fractions, seed, by_text):
    rows = [(label, str(group)) for group, held in enumerate(held_by_set) for label in sorted(held)]
    labels, groups = [label for label, _ in rows], [group for _, group in rows]
    texts = [(f"Text {group}",) for group in groups]
    parts = split_three_ways(labels, None if by_text else groups, *fractions, seed, texts if by_text else None)
    assert all(parts)
    assert sum(len({groups[row] for row in part}) for part in parts) == len(held_by_set)
    if one_way_exists(held_by_set):
        common = {label for label, count in Counter(x for held in held_by_set for x in held).items() if count >= 3}
        assert all(common <= {labels[row] for row in part} for part in parts)


@settings(deadline=None, max_examples=50)
@given(
    groups=st.lists(st.sampled_from("pqrstuvwx"), min_size=9, max_size=80).filter(lambda g: len(set(g)) >= 3),
    fractions=st.tuples(st.floats(0.05, 0.45), st.floats(0.05, 0.45)),
    seed=st.integers(0, 1000),
)
def test_a_split_by_group_divides_no_group_and_loses_no_row(groups, fractions, seed):
    labels = ["a" if i % 3 else "b" for i in range(len(groups))]
    parts = split_three_ways(labels, groups, *fractions, seed)
    assert sorted(row for part in parts for row in part) == list(range(len(groups)))
    held = [{groups[row] for row in part} for part in parts]
    assert sum(len(part) for part in held) == len(set(groups))
    assert all(held)


@settings(deadline=None, max_examples=50)
@given(
    rows=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 150), st.sampled_from("ab")), min_size=30, max_size=90),
    seed=st.integers(0, 1000),
)
def test_equal_texts_and_groups_stay_together_even_over_chains_of_both(rows, seed):
    groups, texts = [f"group {g}" for g, _, _ in rows], [(f"Text {t}", "after") for _, t, _ in rows]
    assume(len(connected(groups, texts)) >= 3)
    # Where nearly all rows are tied the split is refused.
    assume(max(map(len, connected(groups, texts))) < 0.8 * len(rows))
    parts = split_three_ways([label for *_, label in rows], groups, 0.2, 0.2, seed, texts)
    place = {row: at for at, part in enumerate(parts) for row in part}
    for one, other in itertools.combinations(range(len(rows)), 2):
        if groups[one] == groups[other] or texts[one] == texts[other]:
            assert place[one] == place[other]


def test_sets_are_tied_by_either_kind():
    assert connected(["a", "b", "b", "c", "d"], ["x", "x", "y", "z", "y"]) == [[0, 1, 2, 4], [3]]
    assert connected(None, ["x", "y", "x"]) == [[0, 2], [1]]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The  cat\u00a0sat ", "the cat sat"),
        ("STRASSE", "straße"),
        ("ﬁne", "Fine"),
        ("cafe\u0301", "CAFÉ"),
        ("１２ｋｇ", "12kg"),
        ("a\tb\r\nc", "A b c"),
    ],
)
def test_texts_are_equal_whatever_their_white_space_case_and_unicode_form(one, other):
    assert text_key((one, "x")) == text_key((other, "X"))
    assert text_key((one, "x")) != text_key((other, "y"))
    assert text_key((one, "")) != text_key(("", other))


def test_a_text_that_stands_in_most_rows_goes_to_train():
    texts = [("same",)] * 200 + [(f"text {i}",) for i in range(100)]
    for seed in range(10):
        train, validation, test = split_three_ways(["abc"[i % 3] for i in range(300)], None, 0.15, 0.15, seed, texts)
        assert set(range(200)) <= set(train)
        assert 44 <= len(validation) <= 46
        assert 44 <= len(test) <= 46


@pytest.mark.parametrize("num_texts", [1, 2])
def test_fewer_texts_than_splits_are_drawn_row_by_row(num_texts):
    texts = [(f"same {i % num_texts}", "Same") for i in range(60)]
    parts = split_three_ways(["abc"[i % 3] for i in range(60)], None, 0.15, 0.15, 0, texts)
    assert [len(part) for part in parts] == [42, 9, 9]


def test_too_few_sets_of_groups_and_texts_are_refused_with_the_figures():
    groups, texts = ["x", "y", "z"] * 4, [("one",)] * 4 + [(f"{i}",) for i in range(8)]
    with refused(ValueError, "12 rows … 9 texts … 2 labels", "leaves 1 set", "leave out data.group_column"):
        split_three_ways(["a", "b"] * 6, groups, 0.15, 0.15, 0, texts)


def test_sets_that_leave_a_split_nearly_empty_are_refused_with_what_can_be_had():
    texts = [("same",)] * 290 + [(f"text {i}",) for i in range(10)]
    with refused(
        ValueError,
        "data.validation_fraction … data.test_fraction … 45 and 45 of 300",
        "train 290, validation 5, test 5",
        "290 rows … together",
        "set … 0.017 and 0.017",
    ):
        split_three_ways(["abc"[i % 3] for i in range(300)], None, 0.15, 0.15, 0, texts)
    parts = split_three_ways(["abc"[i % 3] for i in range(300)], None, 0.017, 0.017, 0, texts)
    assert [len(part) for part in parts] == [290, 5, 5]


def test_a_drawn_split_has_the_sizes_and_shares_asked_for():
    labels = ["a"] * 120 + ["b"] * 80
    train, validation, test = split_three_ways(labels, None, validation_fraction=0.25, test_fraction=0.1, seed=1)
    assert (len(train), len(validation), len(test)) == (130, 50, 20)
    assert Counter(labels[row] for row in test) == {"a": 12, "b": 8}
    assert Counter(labels[row] for row in validation) == {"a": 30, "b": 20}


@given(st.lists(st.integers(20, 60), min_size=2, max_size=8), st.integers(0, 10_000))
@settings(deadline=None, max_examples=30)
def test_labels_are_in_every_split_in_their_shares(counts, seed):
    labels = [f"label {number}" for number, count in enumerate(counts) for _ in range(count)]
    parts = split_three_ways(labels, None, 0.2, 0.1, seed, [(f"{row}",) for row in range(len(labels))])
    for part, share in zip(parts, (0.7, 0.2, 0.1), strict=True):
        assert abs(len(part) - share * len(labels)) <= 1.5
        held = Counter(labels[row] for row in part)
        assert all(abs(held[f"label {number}"] - share * count) < 2 for number, count in enumerate(counts))


def test_a_split_depends_on_the_seed_alone():
    labels = ["abc"[i % 3] for i in range(90)]
    assert split_three_ways(labels, None, 0.2, 0.2, 3) == split_three_ways(labels, None, 0.2, 0.2, 3)
    assert len({tuple(split_three_ways(labels, None, 0.2, 0.2, seed)[2]) for seed in range(5)}) == 5


def test_a_group_split_comes_near_the_fractions():
    groups = [str(i // 10) for i in range(1000)]
    labels = ["a" if i % 2 else "b" for i in range(1000)]
    train, validation, test = split_three_ways(labels, groups, validation_fraction=0.2, test_fraction=0.15, seed=0)
    assert (len(train), len(validation), len(test)) == (650, 200, 150)


def test_groups_of_many_sizes_come_near_the_fractions_too():
    rng = random.Random(0)
    sizes = [rng.randint(5, 60) for _ in range(80)]
    groups = [str(group) for group, size in enumerate(sizes) for _ in range(size)]
    labels = rng.choices("abcd", [60, 25, 12, 3], k=len(groups))
    for seed in range(5):
        parts = split_three_ways(labels, groups, 0.15, 0.15, seed)
        for part, share in zip(parts, (0.7, 0.15, 0.15), strict=True):
            assert len(part) / len(groups) == pytest.approx(share, abs=0.02)
            for label, count in Counter(labels).items():
                assert sum(labels[row] == label for row in part) / count == pytest.approx(share, abs=0.1)


def test_fractions_that_leave_nothing_to_train_are_refused():
    with pytest.raises(ValueError, match=r"data\.validation_fraction \(0\.5\) and data\.test_fraction \(0\.5\)"):
        split_three_ways(["a"] * 10, None, 0.5, 0.5, seed=0)


def test_too_few_groups_are_refused():
    with refused(ValueError, "3 groups … 2: ['x', 'y']"):
        split_three_ways(["a"] * 4, ["x", "x", "y", "y"], 0.2, 0.2, seed=0)
