"""What looks doubtful in data is said with figures and the names of labels, and without a word of its texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from saying import each_says, says

from irtune.data.audit import audit
from irtune.data.dataset import Example, LabelledDataset
from irtune.data.file import FileConfig
from irtune.data.label_names import metric_labels, some
from irtune.data.prompt import Prompt
from irtune.tracking.conversion import name as tracked_name
from irtune.training.evaluation import metric_names


def dataset(labels=None, **splits):
    """Splits as lists of text (or texts) and label."""
    examples = {
        split: tuple(
            Example(f"{split}-{i}", (text,) if isinstance(text, str) else text, label)
            for i, (text, label) in enumerate(rows)
        )
        for split, rows in splits.items()
    }
    found = sorted({e.label for part in examples.values() for e in part})
    return LabelledDataset("toy", tuple(labels or found), examples, Prompt("texts", "Which label"))


def rows(first, last, labels="ab"):
    return [(f"secret {i}", labels[i % len(labels)]) for i in range(first, last)]


def notes(**splits):
    found = audit(dataset(**splits))
    assert not any("secret" in note for note in found)
    return "\n".join(found)


def test_clean_data_is_not_remarked_on():
    assert notes(train=rows(0, 40), validation=rows(40, 50), test=rows(50, 60)) == ""


def test_texts_that_splits_share_are_counted():
    test = [(text.upper(), label) for text, label in rows(0, 37)] + rows(90, 100)
    found = notes(train=rows(0, 60), validation=rows(60, 70), test=test)
    assert says(found, "37 of 47 test … in train … 79%")
    assert "validation texts" not in found
    both = notes(train=rows(0, 60), validation=[*rows(60, 64), *rows(0, 2)], test=rows(61, 70))
    assert says(both, "2 of 6 validation … in train … 33%")
    assert says(both, "3 of 9 test … in validation … 33%")


def test_repeated_and_contradictory_texts_are_counted():
    found = notes(train=[*rows(0, 40), *rows(0, 10)], validation=rows(40, 50), test=rows(50, 60))
    assert says(found, "10 of 70 rows repeat … 60 texts")
    assert "carry" not in found
    torn = notes(train=[(" Secret", "a"), ("secret", "b"), ("secret x", "b"), ("secret x", "c"), *rows(0, 9)] * 2,
                 validation=rows(40, 50), test=rows(50, 60))  # fmt: skip
    assert says(torn, "8 rows … 2 texts … 3 labels … a, b and c", "at least two")
    one = notes(train=[("secret", "abc"[i % 3]) for i in range(60)], validation=[], test=[])
    assert says(one, "60 rows … 1 text … 3 labels … a, b and c")
    assert says(one, "60 of 60 rows … train")


def test_edits_of_case_or_white_space_do_not_contradict_each_other():
    edits = [(("a b", "A b"), "case"), (("a b", "a  b"), "space")] * 3
    data = dataset(train=edits, validation=edits[:2], test=edits[:2])
    assert "carry" not in "\n".join(audit(data))
    same = [(("a b", "A b"), "case"), (("a b", "A b"), "space")]
    assert says("\n".join(audit(dataset(train=same, validation=[], test=[]))), "2 rows … 1 text … 2 labels")


def test_an_edit_of_form_alone_stays_an_example_with_both_texts(tmp_path):
    lines = ["before,after,label", *(f"the Cat {i},the  cat {i},{'ab'[i % 2]}" for i in range(20))]
    (tmp_path / "edits.csv").write_text("\n".join(lines))
    data = FileConfig(path=tmp_path / "edits.csv").load()
    assert {e.texts for part in data.splits.values() for e in part} == {
        (f"the Cat {i}", f"the  cat {i}") for i in range(20)
    }
    assert data.notes == ()


def test_absent_classes_are_named_with_their_split():
    found = notes(
        train=[*rows(0, 40), ("secret x", "rare")],
        validation=rows(40, 50),
        test=[*rows(50, 60), ("secret y", "rare")],
        labels=("a", "b", "never", "rare"),
    )
    assert says(found, "train has 3 of 4 classes … never … 0 rows")
    assert says(found, "validation has 2 of 4 classes … never … 0 rows … rare … 2 rows")
    assert says(found, "macro scores … validation … 2 classes")
    assert "test has 3 of 4 classes" in found
    assert says(found, "fewer than 3 rows … rare … 1 of 4 classes", "data.label_map")


def test_many_absent_classes_are_counted_rather_than_listed():
    labels = [f"class {i:02}" for i in range(30)]
    found = notes(train=rows(0, 300, labels), validation=rows(300, 315, labels), test=rows(330, 360, labels))
    assert says(found, "validation has 15 of 30 classes … class 15 … 11 rows … class 16 … 11 rows")
    assert "and 12 more" in found
    assert some(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
    assert some(["a"]) == "a"
    assert some(["a", "b", "c"]) == "a, b and c"


@pytest.mark.parametrize("unequal", ["Fluency", "fluency ", " FLUENCY", "ｆluency"])
def test_labels_that_differ_in_form_only_are_named_with_the_remedy(unequal):
    kinds = {"labels": ("fluency", unequal, "style")}
    data = {split: rows(0, 9, kinds["labels"]) for split in ("train", "validation", "test")}
    found = notes(**data)
    assert f"differ in case or white space only: {'/'.join(map(repr, sorted(['fluency', unequal])))}" in found
    assert "data.label_map" in found


@pytest.mark.parametrize(
    ("labels", "are_scores"),
    [
        ([f"{i * 0.137:.3f}" for i in range(60)], True),
        ([f"{i * 0.137:.2f}".replace(".", ",") for i in range(60)], True),
        ([f"{i / 5:.1f}" for i in range(26)] * 40, True),
        ([str(i * 7 - 100) for i in range(60)], True),
        ([f"{i}%" for i in range(60)], True),
        ([f"{i}e-3" for i in range(1, 60)], True),
        (["0", "1", "2"] * 20, False),
        (["0.0", "0.5", "1.0"] * 20, False),
        ([str(i) for i in range(77)] * 20, False),
        ([f"class {i}" for i in range(60)], False),
    ],
)
def test_labels_that_look_like_scores_are_said_with_figures(labels, are_scores):
    kinds = sorted(set(labels))
    found = notes(train=[(f"secret {i}", label) for i, label in enumerate(labels)], validation=[], test=[])
    expected = f"{len(kinds)} labels for {len(labels)} rows look like scores, not classes"
    assert (expected in found) == are_scores
    if are_scores:
        assert "data.label_map" in found


def test_labels_that_would_share_a_metric_are_numbered_there_and_said():
    assert metric_labels(["fluency", "style!", "style?", "A/B"]) == ("fluency", "1 style_", "2 style_", "A/B")
    assert metric_labels(["x?", "x!", "1 x_", "😀", "😡"]) == ("0 x_", "1 1 x_", "2 1 x_", "3 _", "4 _")
    data = {split: rows(0, 9, ("fluency", "style!", "style?")) for split in ("train", "validation", "test")}
    found = notes(**data)
    assert "share a name in metrics" in found
    assert says(found, "'style!' … '1 style_' … 'style?' … '2 style_'", "data.label_map")
    assert "share a name" not in notes(**{split: rows(0, 9, ("a&b", "c")) for split in data})


ODD = st.text(alphabet="ab ?!/.-_:é😀0", max_size=8) | st.just("x" * 300) | st.just("x" * 301)


@given(st.lists(ODD, min_size=2, max_size=6, unique=True))
def test_no_two_labels_ever_share_a_name_in_mlflow(labels):
    names = [f"{prefix}{metric}" for prefix in ("eval/", "final/validation_") for metric in metric_names(labels)]
    assert len({tracked_name(metric) for metric in names}) == len(names)


def test_a_training_split_smaller_than_another_is_said():
    found = notes(train=rows(0, 10), validation=rows(40, 50), test=rows(50, 90))
    assert says(found, "train is smaller … train 10, validation 10, test 40")


def test_loading_adds_what_looks_doubtful_to_the_notes(tmp_path):
    lines = ["before,after,label", *(f"old {i % 20},new {i % 20},{'ab'[i % 2]}" for i in range(60))]
    (tmp_path / "repeated.csv").write_text("\n".join(lines))
    data = FileConfig(path=tmp_path / "repeated.csv").load()
    assert each_says(data.notes, ("40 of 60 rows repeat … 20 texts",))
    texts = {split: {example.texts for example in part} for split, part in data.splits.items()}
    assert not texts["train"] & (texts["validation"] | texts["test"])
    assert not texts["validation"] & texts["test"]
