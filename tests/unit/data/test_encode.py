"""Token ids and batches: nothing lost, nothing seen twice, little padding, and the same on every machine."""

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from saying import refused, says
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from irtune.data import Example, LabelledDataset
from irtune.data.batches import evaluation_batches, share_hash, training_batches
from irtune.data.dataset import SPLITS
from irtune.data.encode import LENGTH_CAP, EncodedSplit, encode, encode_once
from irtune.data.prompt import Prompt

PAD = 99
PROMPT = Prompt("revisions", "", "Why?")


def dataset(after="b"):
    revisions = [Example(f"r{i}", ("a" * i, after), "xy"[i % 2]) for i in range(6)]
    splits = {"train": revisions[:3], "validation": revisions[3:5], "test": revisions[5:]}
    return LabelledDataset("tiny", ("x", "y"), {split: tuple(rows) for split, rows in splits.items()}, PROMPT)


def letters():
    """A tokenizer with one token a character: its code, up to 127."""
    vocabulary = {chr(code): code for code in range(128)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


class Forbidden(PreTrainedTokenizerFast):
    """A tokenizer that may be looked at, but not used."""

    def __call__(self, *arguments, **options):
        raise AssertionError("tokenised again")


def unusable(tokenizer):
    return Forbidden(tokenizer_object=tokenizer.backend_tokenizer)


def text(encoded, index):
    ids = encoded.token_ids[encoded.offsets[index] : encoded.offsets[index + 1]]
    return "".join(map(chr, ids))


def test_every_revision_becomes_the_tokens_of_its_prompt():
    data = dataset()
    encoded = encode(data, letters(), max_length=200)
    for split in SPLITS:
        assert [text(encoded.splits[split], index) for index in range(len(encoded.splits[split]))] == [
            PROMPT.render("Why?", example.texts) for example in data.splits[split]
        ]
        assert encoded.splits[split].labels.tolist() == [data.labels.index(r.label) for r in data.splits[split]]
    assert encoded.splits["train"].token_ids.dtype == np.int32


def revisions(*texts, labels="xy", **prompt):
    """A dataset of these texts, the first two for validation and test too."""
    kind = "revisions" if isinstance(texts[0], tuple) and len(texts[0]) == 2 else "texts"
    examples = tuple(Example(f"r{i}", each, labels[i % 2]) for i, each in enumerate(texts))
    splits = {"train": examples, "validation": examples[:1], "test": examples[:1]}
    return LabelledDataset("tiny", tuple(labels), splits, Prompt(kind, "Why", **prompt))


def test_a_pair_whose_change_fits_always_shows_it():
    steady = "steady " * 40
    data = revisions((f"{steady}old end", f"{steady}new end"), ("short", "text"), instruction=None)
    encoded = encode(data, letters(), max_length=40)
    assert text(encoded.splits["train"], 0) == "Before: steady old\nAfter: steady new"
    assert text(encoded.splits["train"], 1) == "Before: short\nAfter: text"
    assert says(encoded.in_words(), "40 tokens", "3 of 4 examples cut", "0 without their change")


def test_as_much_context_is_shown_as_fits():
    words = " ".join(f"w{i}" for i in range(30))
    data = revisions((f"{words} old", f"{words} new"), instruction=None)
    for length in range(40, 120):
        row = encode(data, letters(), length).splits["train"].lengths[0]
        # One word more on both sides would be too long.
        assert length - 2 * len(" w10") < row <= length


def test_a_change_that_does_not_fit_is_counted():
    data = revisions(("a b c", "d e f"), ("x " * 50, "y " * 50), instruction=None)
    encoded = encode(data, letters(), max_length=40)
    assert says(encoded.in_words(), "40 tokens", "1 of 4 examples cut", "1 without their change")
    assert {"x", "y"} <= set(text(encoded.splits["train"], 1))


def test_single_texts_are_cut_at_their_end():
    encoded = encode(revisions(("one two three four five six",), instruction=None), letters(), max_length=13)
    assert text(encoded.splits["train"], 0) == "one two three"
    assert says(encoded.in_words(), "13 tokens", "3 of 3 examples cut")


def test_auto_takes_the_longest_example_up_to_a_cap_and_to_what_the_model_reads():
    data = revisions(("a", "b"), ("c" * 30, "d"), instruction=None)
    longest = len("Before: \nAfter: d") + 30
    assert encode(data, letters(), "auto").max_length == longest
    assert encode(data, letters(), "auto").num_cut == 0
    assert encode(data, letters(), "auto", positions=40).max_length == 40
    assert encode(revisions(("a" * 2000, "b"), instruction=None), letters(), "auto").max_length == LENGTH_CAP


def test_the_label_list_is_left_out_where_it_would_take_more_than_a_third():
    few, many = ("x", "y"), tuple(f"class_name_{i}" for i in range(77))
    data = revisions(("my card is lost",), ("where is my money",), labels=few, instruction="auto")
    assert encode(data, letters(), "auto").instruction == "Why: x, y?"
    data = revisions(("my card is lost",), ("where is my money",), labels=many, instruction="auto")
    for length in ("auto", 128):
        encoded = encode(data, letters(), length)
        assert encoded.instruction == "Why?"
        assert text(encoded.splits["train"], 0) == "Why?\nmy card is lost"
        assert encoded.num_cut == 0
        assert "does not list the labels" in encoded.in_words()
    # Exactly a third is not more than a third.
    data = revisions(("text " * 20,), ("other",), labels=("abc", "defg"), instruction="auto")
    assert encode(data, letters(), 3 * len(": abc, defg")).instruction == "Why: abc, defg?"
    assert encode(data, letters(), 3 * len(": abc, defg") - 1).instruction == "Why?"


def test_an_instruction_that_leaves_too_little_for_texts_is_refused_with_the_figure():
    data = revisions(("a b c d e f g h i j k l", "b"), instruction="x" * 60)
    with refused(ValueError, "90 tokens", "take 77", "leave 13", "16 at least"):
        encode(data, letters(), 90)
    # Where all texts fit there is nothing to refuse.
    assert encode(data, letters(), 110).num_cut == 0


def test_a_text_without_any_space_is_cut_too():
    encoded = encode(revisions(("x" * 500,), ("y",), instruction=None), letters(), max_length=20)
    assert text(encoded.splits["train"], 0) == "x" * 20


def test_counts_are_kept_with_the_tokens(tmp_path):
    data = revisions(("a b c", "d e f"), ("x " * 50, "y " * 50), instruction=None)
    for _ in range(2):
        kept = encode_once(data, letters(), 40, tmp_path, 64)
        assert (kept.num_cut, kept.num_without_change) == (1, 1)
        assert (kept.max_length, kept.instruction, kept.of_revisions) == (40, None, True)


def test_a_batch_is_padded_to_its_longest_example_only():
    rows = [[1, 2], [3], [4, 5, 6], [7, 8, 9, 10, 11]]
    encoded = EncodedSplit(
        np.concatenate(rows).astype(np.int32), np.cumsum([0, *map(len, rows)]), np.array([0, 1, 1, 0])
    )
    batch = encoded.collate(np.array([2, 1]), PAD)
    np.testing.assert_array_equal(batch["input_ids"], [[4, 5, 6], [3, PAD, PAD]])
    np.testing.assert_array_equal(batch["attention_mask"], [[1, 1, 1], [1, 0, 0]])
    np.testing.assert_array_equal(batch["labels"], [1, 1])
    np.testing.assert_array_equal(encoded.collate(np.array([1]), PAD)["input_ids"], [[3]])


def test_data_is_tokenised_once_for_all_trials(tmp_path):
    tokenizer = letters()
    first = encode_once(dataset(), tokenizer, 60, tmp_path)
    second = encode_once(dataset(), unusable(letters()), 60, tmp_path)
    for split in SPLITS:
        fresh = encode(dataset(), letters(), 60).splits[split]
        for name, array in vars(fresh).items():
            for kept in (first, second):
                found = getattr(kept.splits[split], name)
                assert isinstance(found, np.memmap)
                np.testing.assert_array_equal(found, array)
                assert found.dtype == array.dtype
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1
    assert not list(tmp_path.glob("*.partial"))


def test_a_tokenizer_that_was_used_before_is_still_the_same(tmp_path):
    used = letters()
    used(["abc", "abcdef"], truncation=True, max_length=4)
    first = encode_once(dataset(), used, 60, tmp_path)
    second = encode_once(dataset(), unusable(letters()), 60, tmp_path)
    np.testing.assert_array_equal(first.splits["train"].token_ids, second.splits["train"].token_ids)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1


def test_other_data_tokenizer_or_length_is_encoded_anew(tmp_path):
    encode_once(dataset(), letters(), 60, tmp_path)
    for data, length in ((dataset(after="c"), 60), (dataset(), 61)):
        with pytest.raises(AssertionError, match="tokenised again"):
            encode_once(data, unusable(letters()), length, tmp_path)
        encoded = encode_once(data, letters(), length, tmp_path)
        assert text(encoded.splits["train"], 0) == PROMPT.render("Why?", data.splits["train"][0].texts)[:length]
    other = letters()
    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    assert not np.array_equal(
        encode_once(dataset(), other, 60, tmp_path).splits["train"].offsets,
        encode_once(dataset(), letters(), 60, tmp_path).splits["train"].offsets,
    )


def test_what_a_killed_process_left_behind_does_no_harm(tmp_path):
    encode_once(dataset(), letters(), 60, tmp_path)
    (whole,) = (path for path in tmp_path.iterdir() if path.is_dir())
    torn = whole.rename(whole.with_name(f".{whole.name}.partial"))
    (torn / "train.labels.npy").write_bytes(b"torn")
    encoded = encode_once(dataset(), letters(), 60, tmp_path)
    assert encoded.splits["train"].labels.tolist() == [0, 1, 0]


def lengths_of(num_examples, seed=0):
    """Lengths with a long tail, as texts have."""
    return np.random.default_rng(seed).lognormal(4, 0.7, num_examples).astype(int) + 1


def epoch(lengths, batch_size, world_size=1, number=0, seed=0):
    """The batches of every rank in one epoch: ``(world_size, batches, batch_size)``."""
    num_batches = len(lengths) // (batch_size * world_size)
    streams = [
        training_batches(lengths, batch_size, seed=seed, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    span = (number * num_batches, (number + 1) * num_batches)
    return np.array([list(itertools.islice(stream, *span)) for stream in streams])


sizes = {"num_examples": st.integers(1, 400), "batch_size": st.integers(1, 9), "world_size": st.integers(1, 4)}


@settings(deadline=None, max_examples=100)
@given(**sizes, seed=st.integers(0, 1000), number=st.integers(0, 2))
def test_an_epoch_deals_each_example_to_one_rank_at_most(num_examples, batch_size, world_size, seed, number):
    lengths = lengths_of(num_examples)
    if num_examples < batch_size * world_size:
        with pytest.raises(ValueError, match=r"^training\.micro_batch_size: "):
            next(training_batches(lengths, batch_size, seed=seed, world_size=world_size))
        return
    seen = epoch(lengths, batch_size, world_size, number, seed)
    # As many examples as whole batches hold, none twice.
    assert len(np.unique(seen)) == seen.size == num_examples // (batch_size * world_size) * batch_size * world_size
    assert seen.min() >= 0
    assert seen.max() < num_examples


def test_too_few_examples_for_all_ranks():
    with refused(ValueError, "8 on 4 ranks", "32", "31"):
        next(training_batches(lengths_of(31), 8, seed=0, world_size=4))
    assert len(next(training_batches(lengths_of(32), 8, seed=0, world_size=4))) == 8


def test_batches_are_a_function_of_the_seed():
    lengths = lengths_of(300)
    np.testing.assert_array_equal(epoch(lengths, 8, 2), epoch(lengths, 8, 2))
    assert not np.array_equal(epoch(lengths, 8, 2), epoch(lengths, 8, 2, seed=1))


def test_epochs_differ_in_order_and_company():
    first, second = (epoch(lengths_of(300), 8, number=number)[0] for number in (0, 1))
    assert not np.array_equal(first, second)
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in second}


def test_what_is_left_out_differs_between_epochs():
    left_out = [set(range(39)) - set(epoch(lengths_of(39), 8, number=number).ravel()) for number in range(5)]
    assert all(len(missing) == 7 for missing in left_out)
    assert len(set(map(frozenset, left_out))) == 5


def test_batches_come_in_no_order_of_length():
    means = lengths_of(256)[epoch(lengths_of(256), 8)[0]].mean(axis=1)
    assert 0 < np.sum(np.diff(means) > 0) < len(means) - 1
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.5


def waste(lengths, batches):
    """Share of all tokens that is padding."""
    inputs = lengths[batches]
    return 1 - inputs.sum() / (inputs.max(axis=-1).sum() * inputs.shape[-1])


@pytest.mark.parametrize("world_size", [1, 4])
def test_batches_of_like_length_waste_little_on_padding(world_size):
    lengths = lengths_of(1000)
    shuffled = np.random.default_rng(0).permutation(1000)[: 1000 // 8 * 8].reshape(-1, 8)
    assert waste(lengths, shuffled) > 0.4
    assert waste(lengths, epoch(lengths, 8, world_size)) < 0.15


def test_ranks_do_like_work_at_a_step():
    lengths = lengths_of(1000)
    longest = lengths[epoch(lengths, 8, 4)].max(axis=-1)
    assert np.median(longest.max(axis=0) / longest.min(axis=0)) < 1.3


@settings(deadline=None, max_examples=100)
@given(**sizes)
def test_evaluation_sees_every_example_once_in_as_many_batches_on_every_rank(num_examples, batch_size, world_size):
    ranks = [
        evaluation_batches(lengths_of(num_examples), batch_size, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    assert all(len(batch) <= batch_size for batches in ranks for batch in batches)
    assert sorted(np.concatenate([batch for batches in ranks for batch in batches])) == list(range(num_examples))
    # No more batches than the fullest rank needs.
    assert len(ranks[0]) == -(-len(np.concatenate(ranks[0])) // batch_size)


def test_evaluation_starts_with_the_longest_examples():
    lengths = np.array([3, 9, 5, 7])
    assert [batch.tolist() for batch in evaluation_batches(lengths, 2)] == [[1, 3], [2, 0]]


@pytest.mark.parametrize("num_examples", [64, 100, 1000])
def test_a_share_is_known_by_the_examples_that_a_rank_sees_first(num_examples):
    lengths = lengths_of(num_examples)
    shares = [share_hash(lengths, 8, seed=3, rank=rank, world_size=4) for rank in range(4)]
    assert len(set(shares)) == 4
    for rank, seen in enumerate(epoch(lengths, 8, 4, seed=3)):
        assert shares[rank] == hashlib.sha256(np.sort(seen.ravel()).astype(np.int64).tobytes()).hexdigest()[:16]
    assert share_hash(lengths, 8, seed=4, rank=0, world_size=4) != shares[0]
