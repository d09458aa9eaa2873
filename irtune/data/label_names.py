"""Names of labels: as trackers take them, and in sentences."""

import re
from collections import Counter
from collections.abc import Sequence

MAX_LENGTH = 200
SHOWN = 3


def metric_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """A name for each label that can stand in a metric's name: the label itself where trackers take it.

    Other characters than letters, digits and ``_ . - : /`` become ``_``, and so does a slash that is part of no path.
    Labels that would share a name, such as ``style?`` and ``style!``, have the number of their class before it.
    """
    names = [plain_label(label) for label in labels]
    while len(set(names)) < len(names):
        counts = Counter(names)
        names = [f"{index} {name}" if counts[name] > 1 else name for index, name in enumerate(names)]
    return tuple(names)


def plain_label(label: str) -> str:
    """The label in characters that trackers take, which other labels may share."""
    plain = re.sub(r"[^\w.\- :/]", "_", label)[:MAX_LENGTH]
    if any(part.strip(".") == "" for part in plain.split("/")):
        plain = plain.replace("/", "_").replace(".", "_")
    return plain or "_"


def some(names: Sequence[str], shown: int = SHOWN) -> str:
    """The first few names, and how many more there are: ``a, b, c and 12 more``."""
    listed = [name if len(name) <= 40 else f"{name[:39]}…" for name in names[:shown]]
    if len(names) > shown:
        return f"{', '.join(listed)} and {len(names) - shown} more"
    return " and ".join(filter(None, [", ".join(listed[:-1]), *listed[-1:]]))


def counted(number: int, noun: str) -> str:
    """A number with its noun in the right form: ``1 row``, ``2 rows``, ``2 classes``."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"
