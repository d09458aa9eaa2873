"""Whether a text tells its facts (a dotted key, a number, a place, a verdict, a remedy), however it is worded."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest

Fact = str | re.Pattern[str]


def says(text: object, *facts: Fact) -> bool:
    """Check that a text tells every fact, and name those it does not tell.

    A fact stands for itself as a whole: ``5`` is not told by 50, 0.5 or -5, nor ``policy.k`` by selection.policy.k.

    Args:
        text: A text, or an error.
        facts: A few words of it, or a pattern. Those around `` … `` have to stand in one line, in this order.

    Raises:
        AssertionError: If a fact is missing.
    """
    missing = [fact for fact in facts if not _pattern(fact).search(str(text))]
    if missing:
        listed = "\n".join(f"  {fact.pattern if isinstance(fact, re.Pattern) else fact}" for fact in missing)
        raise AssertionError(f"not told:\n{listed}\nin:\n{text}")
    return True


def each_says(texts: Iterable[object], *facts_of_each: tuple[Fact, ...]) -> bool:
    """Check that there are as many texts as tuples of facts, and that each tells its own; see ``says``."""
    texts = list(texts)
    if len(texts) != len(facts_of_each):
        listed = "\n".join(map(str, texts))
        raise AssertionError(f"{len(texts)} texts instead of {len(facts_of_each)}:\n{listed}")
    return all(says(text, *facts) for text, facts in zip(texts, facts_of_each, strict=True))


@contextmanager
def refused(kind: type[Exception], *facts: Fact) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """Check that an error is raised inside and tells every fact; see ``says``."""
    with pytest.raises(kind) as caught:
        yield caught
    says(caught.value, *facts)


def _pattern(fact: Fact) -> re.Pattern[str]:
    return fact if isinstance(fact, re.Pattern) else re.compile(".*?".join(map(_whole, fact.split(" … "))))


def _whole(words: str) -> str:
    """A pattern of words, which no letter, digit, sign or part of a dotted name may continue."""
    before = r"(?<!\w)(?<!\w\.)" if re.match(r"\w", words) else ""
    before += r"(?<![-+])" if words[:1].isdigit() else ""
    after = r"(?!\w)(?!\.\w)" if re.search(r"\w$", words) else ""
    return f"{before}{re.escape(words)}{after}"
