"""The synthetic topics: phrases such as ``the old violin``, whose last word tells which of five topics they are about.

They are as short and as easy as a random model of a few thousand parameters needs to learn them within seconds.
"""

import random
from collections.abc import Mapping

from irtune.data.dataset import DataError, Example, Split

TOPICS = {
    "food": "bread soup cheese rice butter pepper onion lemon honey sausage noodles pancake",
    "weather": "rain snow thunder fog sunshine hail drizzle storm frost breeze clouds heatwave",
    "music": "violin guitar drums trumpet choir melody concert piano orchestra singer chorus flute",
    "money": "bank loan mortgage salary tax interest savings invoice budget pension dividend cash",
    "sport": "football tennis hockey swimming marathon goalkeeper referee boxing cycling coach stadium rugby",
}
"""Words by topic, as many of each."""
_FIRST = ["the", "a", "my", "our", "some", "no", "her", "this", "one", "his", "each", "that"]
_SECOND = ["old", "new", "big", "good", "bad", "nice", "first", "last", "other", "same", "whole", "real"]


def read_topics(sizes: Mapping[Split, int], seed: int) -> dict[Split, tuple[Example, ...]]:
    """Phrases of each split, every topic equally often (up to one), and no phrase twice in the whole dataset.

    Args:
        sizes: The number of each, by split.
        seed: Says which.

    Raises:
        DataError: There are not as many phrases.

    Example:
        >>> {split: len(phrases) for split, phrases in read_topics({"train": 7, "test": 5}, 0).items()}
        {'train': 7, 'test': 5}
    """
    rng = random.Random(f"topics {seed}")
    left = {
        topic: [f"{a} {b} {word}" for word in words.split() for a in _FIRST for b in _SECOND]
        for topic, words in TOPICS.items()
    }
    most = len(TOPICS) * min(map(len, left.values()))
    # Each split may have one of a topic more than of another.
    if sum(sizes.values()) > most - len(TOPICS) * len(sizes):
        asked = ", ".join(f"data.{split}_size={size}" for split, size in sizes.items())
        raise DataError(f"data.task=topics has {most} phrases, which {asked} is too many for; lower data.train_size")
    for phrases in left.values():
        rng.shuffle(phrases)
    splits: dict[Split, tuple[Example, ...]] = {}
    for split, size in sizes.items():
        topics = [list(TOPICS)[index % len(TOPICS)] for index in range(size)]
        examples = [Example(f"synthetic-{split}-{i}", (left[topic].pop(),), topic) for i, topic in enumerate(topics)]
        rng.shuffle(examples)
        splits[split] = tuple(examples)
    return splits
