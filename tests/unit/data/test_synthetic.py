"""The synthetic dataset: balanced, without repeats, reproducible, and made of edits that are what their label says."""

import random
from collections import Counter

import pytest

from irtune.data.dataset import SPLITS, DataError
from irtune.data.synthetic import SyntheticConfig, compose, generate_pair
from irtune.data.synthetic_language import INTENTIONS, PLAIN_WORDINGS, SLOTS, misspelled, new_scene, read_table
from irtune.data.synthetic_topics import TOPICS


@pytest.fixture(scope="module")
def data():
    return SyntheticConfig().load()


def test_it_is_called_synthetic_wherever_it_is_named(data):
    assert data.name == "synthetic"
    assert all(revision.id.startswith(f"synthetic-{split}-") for split in SPLITS for revision in data.splits[split])


def test_default_sizes_and_balance(data):
    assert {split: len(data.splits[split]) for split in SPLITS} == {"train": 1000, "validation": 200, "test": 500}
    for split in SPLITS:
        counts = Counter(revision.label for revision in data.splits[split])
        assert set(counts) == set(INTENTIONS)
        assert len(set(counts.values())) == 1


def test_no_pair_occurs_twice_in_any_split_or_direction(data):
    pairs = [frozenset((revision.texts[0], revision.texts[1])) for split in SPLITS for revision in data.splits[split]]
    assert len(pairs) == len(set(pairs)) == 1700
    assert all(len(pair) == 2 for pair in pairs)


def test_ids_are_unique(data):
    ids = [revision.id for split in SPLITS for revision in data.splits[split]]
    assert len(ids) == len(set(ids))


def test_the_seed_decides_everything():
    small = {"train_size": 20, "validation_size": 10, "test_size": 10}
    assert SyntheticConfig(**small).load().fingerprint() == SyntheticConfig(**small).load().fingerprint()
    assert SyntheticConfig(**small).load().fingerprint() != SyntheticConfig(**small, seed=1).load().fingerprint()


def test_the_test_split_does_not_change_with_the_size_of_the_others(data):
    other = SyntheticConfig(train_size=50, validation_size=20).load()
    assert other.splits["test"] == data.splits["test"]


def test_labels_are_mixed_in_order(data):
    labels = [revision.label for revision in data.splits["train"]]
    assert set(labels[:25]) == set(INTENTIONS)
    assert labels != [INTENTIONS[i % 5] for i in range(len(labels))]


def test_texts_are_short_sentences(data):
    texts = [text for revision in data.splits["train"] for text in (revision.texts[0], revision.texts[1])]
    words = [len(text.split()) for text in texts]
    assert sum(words) / len(words) < 14
    assert max(words) <= 30
    for text in texts:
        assert text[0].isupper()
        assert text[-1] in ".!"
        assert not any(wrong in text for wrong in ("{", "}", "  ", " ,", ",,", " .", " ;", ",.", ">", "|"))


def test_nothing_but_the_texts_is_read_unless_asked_for(data):
    assert data.prompt.asked(data.labels) is None
    asked = SyntheticConfig(instruction="auto").load().prompt.asked(data.labels)
    assert asked == f"Why was the text revised: {', '.join(data.labels)}?"


def test_every_slot_has_several_edits_of_every_intention():
    for slot, tables in SLOTS.items():
        assert tuple(tables) == INTENTIONS, slot
        for intention, edits in tables.items():
            assert len(set(edits)) == len(edits) >= 4, (slot, intention)
            assert all(before != after for before, after in edits), (slot, intention)


def test_no_edit_is_listed_under_two_intentions():
    owners = {}
    for slot, tables in SLOTS.items():
        for intention, edits in tables.items():
            for edit in edits:
                assert owners.setdefault(edit, intention) == intention, (slot, edit)


def test_repairs_are_not_reversed():
    rng = random.Random(0)
    pairs = [generate_pair("fluency", rng) for _ in range(400)]
    repairs = [(before, after) for before, after in pairs if "goed" in before or "goed" in after]
    assert any("goed" in before and "goed" not in after for before, after in repairs)
    assert not any("goed" in after and "goed" not in before for before, after in repairs)


def test_wording_alone_does_not_give_the_label_away():
    # Informal phrases, which style edits bring in, also stand on both sides of pairs that are revised elsewhere.
    rng = random.Random(0)
    informal = ("the kid ", "the boss ", "right away", "asap", "grabbed", "cuz ", "Honestly,", "freaked out")
    pairs = [generate_pair("fluency", rng) for _ in range(1500)]
    assert any(phrase in before and phrase in after for before, after in pairs for phrase in informal)


def test_read_table_by_hand():
    assert read_table("a  b >  c | > d |\n  e >") == (("a b", "c"), ("", "d"), ("e", ""))


def test_compose_by_hand():
    wordings = {
        "opener": "as a result,",
        "subject": "the nurse, too,",
        "verb": "sold",
        "object": "two keys",
        "setting": "",
        "second subject": "he",
        "predicate": "left",
        "joint": "{a}. However, {b}",
    }
    assert compose(wordings) == "As a result, the nurse, too, sold two keys. However, he left."
    assert (
        compose({**wordings, "joint": "when {b}, {a}", "opener": ""}) == "When he left, the nurse, too, sold two keys."
    )
    assert compose({**wordings, "joint": "{a}! {b}!", "setting": "here"}).endswith("two keys here! He left!")


def test_scenes_fill_every_placeholder_with_different_words():
    rng = random.Random(0)
    for _ in range(50):
        scene = new_scene(rng)
        assert scene["noun"] != scene["other_noun"]
        assert (scene["an"] == "an") == (scene["item"][0] in "aeiou")
        for tables in SLOTS.values():
            for edits in tables.values():
                for edit in edits:
                    before, after = (wording.format(**scene) for wording in edit)
                    assert before != after
    assert all(wordings for wordings in PLAIN_WORDINGS.values())


@pytest.mark.parametrize("word", ["nurse", "kitchen", "eggs", "barn"])
def test_a_misspelling_is_a_permutation_with_the_same_first_letter(word):
    for seed in range(20):
        wrong = misspelled(word, random.Random(seed))
        assert wrong != word
        assert wrong[0] == word[0]
        assert sorted(wrong) == sorted(word)


def test_topics_are_short_balanced_and_never_twice():
    found = SyntheticConfig(task="topics", train_size=600, validation_size=101, test_size=400).load()
    assert found.labels == ("food", "weather", "music", "money", "sport")
    phrases = [example.texts[0] for split in found.splits.values() for example in split]
    assert len(set(phrases)) == len(phrases) == 1101
    assert max(map(len, phrases)) < 30
    assert set(Counter(example.label for example in found.splits["train"]).values()) == {120}
    assert all(example.texts[0].split()[-1] in TOPICS[example.label].split() for example in found.splits["test"])
    again = SyntheticConfig(task="topics", train_size=600, validation_size=101, test_size=400).load()
    assert found.fingerprint() == again.fingerprint()


def test_more_topics_than_there_are_phrases_are_refused():
    with pytest.raises(DataError, match=r"data\.train_size"):
        SyntheticConfig(task="topics", train_size=9000).load()
