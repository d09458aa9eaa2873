"""Synthetic texts, made by the package itself: revisions with ITERATER's five intentions, or topics for tiny models."""

import random
import re
from typing import Literal

from pydantic import Field

from irtune.data.dataset import DatasetConfig, Example, LabelledDataset, Split
from irtune.data.equal_texts import text_key
from irtune.data.synthetic_language import INTENTIONS, PLAIN_WORDINGS, SECOND_CLAUSE, SLOTS, SYMMETRIC, new_scene
from irtune.data.synthetic_topics import TOPICS, read_topics

# How often a slot that is not revised carries the wording of some edit, the same on both sides, so that a clumsy,
# informal or ungrammatical phrase alone says nothing about the revision.
DECOY_RATE = 0.05
# How often a sentence whose revision lies elsewhere has no second clause.
SHORT_RATE = 0.5


class SyntheticConfig(DatasetConfig):
    """Generated revision pairs with the intentions clarity, fluency, coherence, style and meaning-changed.

    Or, with ``task: topics``, phrases of three words about five topics, which a tiny random model learns in seconds.
    Every split holds each intention equally often (up to one), and no pair, in either direction, occurs twice in the
    whole dataset, whatever its case. The test set depends on ``seed`` and ``test_size`` alone.
    ``benchmarks/first_run.py`` measures how hard it is to learn.

    Source of the intentions: Du et al. 2022, "Understanding Iterative Revision from Human-Written Text", ACL.
    """

    name: Literal["synthetic"] = "synthetic"
    task: Literal["revisions", "topics"] = Field(
        "revisions", description="revisions: why a text was revised; topics: what a phrase is about, for tiny models"
    )
    train_size: int = Field(1000, ge=5, description="number of training revisions")
    validation_size: int = Field(200, ge=5, description="number of validation revisions")
    test_size: int = Field(500, ge=5, description="number of test revisions")

    def read(self) -> LabelledDataset:
        """Generate the three splits."""
        sizes: dict[Split, int] = {"test": self.test_size, "validation": self.validation_size, "train": self.train_size}
        if self.task == "topics":
            question = self.prompt("texts", "What is the text about")
            return LabelledDataset(
                name=self.name, labels=tuple(TOPICS), splits=read_topics(sizes, self.seed), prompt=question
            )
        seen: set[frozenset[str]] = set()
        return LabelledDataset(
            name=self.name,
            labels=INTENTIONS,
            splits={split: generate_split(split, size, self.seed, seen) for split, size in sizes.items()},
            prompt=self.prompt("revisions", "Why was the text revised"),
        )


def generate_split(split: Split, size: int, seed: int, seen: set[frozenset[str]]) -> tuple[Example, ...]:
    """``size`` revisions whose pairs are not in ``seen``, which grows by them."""
    rng = random.Random(f"{split} {seed}")
    revisions: list[Example] = []
    while len(revisions) < size:
        label = INTENTIONS[len(revisions) % len(INTENTIONS)]
        before, after = generate_pair(label, rng)
        pair = frozenset(text_key((before, after)))
        if pair not in seen:
            seen.add(pair)
            revisions.append(Example(f"synthetic-{split}-{len(revisions)}", (before, after), label))
    rng.shuffle(revisions)
    return tuple(revisions)


def generate_pair(intention: str, rng: random.Random) -> tuple[str, str]:
    """One sentence before and after an edit of ``intention`` in one of its slots."""
    first, second = new_scene(rng), new_scene(rng)
    revised = rng.choice(list(SLOTS))
    short = revised not in SECOND_CLAUSE and rng.random() < SHORT_RATE
    before, after = {}, {}
    for slot, edits in SLOTS.items():
        if short and slot in SECOND_CLAUSE:
            wordings = ("{a}" if slot == "joint" else "",) * 2
        elif slot == revised:
            wordings = rng.choice(edits[intention])
        elif rng.random() < DECOY_RATE:
            wordings = (rng.choice(rng.choice(edits[rng.choice(INTENTIONS)])),) * 2
        else:
            wordings = (rng.choice(PLAIN_WORDINGS[slot]),) * 2
        scene = second if slot in SECOND_CLAUSE else first
        before[slot], after[slot] = (wording.format(**scene) for wording in wordings)
    if intention in SYMMETRIC and rng.random() < 0.5:
        before, after = after, before
    return compose(before), compose(after)


def compose(wordings: dict[str, str]) -> str:
    """The text of a sentence from the wording of its slots, with capitals and a full stop."""
    clause = " ".join(wordings[slot] for slot in ("subject", "verb", "object", "setting"))
    second_clause = f"{wordings['second subject']} {wordings['predicate']}"
    text = f"{wordings['opener']} {wordings['joint'].format(a=clause, b=second_clause)}"
    text = re.sub(r" +([,;.])", r"\1", " ".join(text.split())).replace(",,", ",").replace(",.", ".")
    text = text if text.endswith("!") else text.rstrip(",") + "."
    return re.sub(r"(^|[.!] )([a-z])", lambda match: match[1] + match[2].upper(), text)
