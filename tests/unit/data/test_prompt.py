"""What the model reads of an example, and which templates are refused."""

import pytest
from pydantic import ValidationError
from saying import refused

from irtune.data.prompt import Prompt
from irtune.data.synthetic import SyntheticConfig

LABELS = ("a", "b")


def read(kind, texts, **options):
    prompt = Prompt(kind, "Why", **{"instruction": "auto", **options})
    return prompt.render(prompt.asked(LABELS), texts)


def test_a_revision_says_where_a_side_is_empty():
    assert read("revisions", ("old", "new")) == "Why: a, b?\nBefore: old\nAfter: new"
    assert read("revisions", ("", "new")) == "Why: a, b?\nBefore: (nothing)\nAfter: new"


def test_single_texts_and_other_pairs_are_not_spoken_of_as_revisions():
    assert read("texts", ("text",)) == "Why: a, b?\ntext"
    assert read("pairs", ("one", "two")) == "Why: a, b?\nText 1: one\nText 2: two"


def test_without_an_instruction_its_line_goes():
    assert Prompt("texts", "Why").instruction is None
    assert read("revisions", ("old", "new"), instruction=None) == "Before: old\nAfter: new"
    assert read("texts", ("text",), instruction=None, template="[{instruction}] {text}") == "[] text"
    assert read("texts", ("text",), instruction=None, template="{instruction} {text}") == "text"


def test_the_users_words_are_taken_as_they_are():
    assert read("texts", ("text",), instruction="Say {this}.") == "Say {this}.\ntext"
    assert read("texts", ("a {text}",), template="{{x}} {text}") == "{x} a {text}"


def test_labels_can_be_left_out():
    assert Prompt("texts", "Why", "auto").asked(LABELS, lists_labels=False) == "Why?"
    assert Prompt("texts", "Why", instruction="Own").asked(LABELS, lists_labels=False) == "Own"


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{before} {afer}", "placeholder {afer} … allowed: {after}, {before}"),
        ("{before.x} {after}", "unknown placeholder"),
        ("{before!r} {after}", "braces … name"),
        ("{before} {after", "brace"),
        ("{} {after}", "unknown placeholder"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(template, told):
    with refused(ValidationError, told):
        SyntheticConfig(template=template)


def test_a_template_must_show_every_text_and_only_those_there_are():
    with refused(ValueError, "data.template:", "must hold {before}, {after}", "found {before}"):
        SyntheticConfig(template="{before}").load()
    with pytest.raises(ValueError, match=r"data\.template"):
        SyntheticConfig(template="{before} {after} {text}").load()


def test_an_instruction_without_a_place_in_the_template_is_refused():
    with pytest.raises(ValidationError, match=r"has no place for data\.instruction"):
        SyntheticConfig(instruction="Why?", template="{before} {after}")
    assert SyntheticConfig(instruction=None, template="{before}|{after}").load().prompt.template == "{before}|{after}"
