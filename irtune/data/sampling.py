"""Which rows go where: seeded, in proportion to the labels, every class in every split, and no text in two of them."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from irtune.data.coverage import cover
from irtune.data.equal_texts import connected, text_key
from irtune.data.label_names import counted

SPLIT_DRAWS = 100
"""Of so many random draws the one is taken whose label counts come nearest to their shares."""

PLACEMENTS = 20_000
"""How many sets of rows are placed in all draws together: where there are many, one draw comes near enough."""

SPLITS = range(3)
TRAIN, VALIDATION, TEST = SPLITS

SplitFraction = Annotated[float, Field(gt=0, lt=1)]


def stratified_sample(labels: Sequence[str], size: int, seed: int) -> list[int]:
    """Sorted positions of ``size`` of the rows, each label in its share of the whole to within one row.

    Every ``len / size``-th of the rows, shuffled and then ordered by label. Unlike a draw from each label on its own,
    it has a result for every size and for labels with a single row. Where ``size`` has room for all labels each has a
    row, at the cost of those that have the most rows beyond their share.
    """
    rng = random.Random(seed)
    order = list(range(len(labels)))
    rng.shuffle(order)
    order.sort(key=lambda row: labels[row])
    offset = rng.randrange(max(1, len(order)))
    taken = [order[(i * len(order) + offset) // size] for i in range(size)]
    counts = Counter(labels)
    if size >= len(counts):
        held = Counter(labels[row] for row in taken)
        first = {labels[row]: row for row in reversed(order)}
        for label in sorted(counts.keys() - held.keys()):
            spare = [other for other in sorted(held) if held[other] > 1]
            giver = max(spare, key=lambda other: held[other] - counts[other] * size / len(labels))
            taken.remove(next(row for row in taken if labels[row] == giver))
            taken.append(first[label])
            held[giver] -= 1
            held[label] = 1
    return sorted(taken)


def split_three_ways(
    labels: Sequence[str],
    groups: Sequence[str] | None,
    validation_fraction: float,
    test_fraction: float,
    seed: int,
    texts: Sequence[tuple[str, ...]] | None = None,
) -> tuple[list[int], list[int], list[int]]:
    """Positions of the training, validation and test rows.

    Rows of one group, rows of equal texts (see ``text_key``), and rows that are tied by a chain of both stay together.
    Every label of three such sets of rows or more is in every split; where sets hold several labels, as far as these
    don't contradict each other. Labels of fewer sets are rather in the training split.
    Where there are fewer than three texts and no groups, equal texts cannot stay together.

    Args:
        labels: Label of each row; the splits hold them in about equal shares.
        groups: Group of each row. None where every row stands for itself.
        validation_fraction: Share of the rows.
        test_fraction: Likewise.
        seed: The same seed gives the same splits.
        texts: Texts of each row. None where they are known to differ.

    Raises:
        ValueError: If the fractions leave nothing to train on, or groups make up fewer than three sets, or sets are so
            large that a split is nearly empty.
    """
    if validation_fraction + test_fraction >= 1:
        raise ValueError(
            f"data.validation_fraction ({validation_fraction}) and data.test_fraction ({test_fraction}) sum to 1 or "
            "more: they must leave some rows for training"
        )
    if groups is not None and len(set(groups)) < 3:
        raise ValueError(f"a split by group needs at least 3 groups, found {len(set(groups))}: {sorted(set(groups))}")
    keys = None if texts is None else [text_key(row) for row in texts]
    sets = connected(groups, keys, range(len(labels)))
    if len(labels) < 3:
        return list(range(len(labels))), [], []
    if len(sets) < 3 and groups is None:
        # Too few texts to keep each in one split: rows are drawn, and what splits share is said (``audit``).
        sets = [[row] for row in range(len(labels))]
    if len(sets) < 3:
        raise ValueError(_cannot_be_split(labels, keys, len(sets)))
    shares = (1 - validation_fraction - test_fraction, validation_fraction, test_fraction)
    # Of each set of rows how many it has of each label, by that one's number.
    number = {label: index for index, label in enumerate(sorted(set(labels)))}
    draw = _Draw([Counter(sorted(number[labels[row]] for row in rows)) for rows in sets], shares)
    generator, num_draws = random.Random(seed), max(1, min(SPLIT_DRAWS, PLACEMENTS // len(sets)))
    place_of, _ = min((draw.places(generator) for _ in range(num_draws)), key=lambda drawn: drawn[1])
    parts = [
        sorted(row for rows, at in zip(sets, place_of, strict=True) if at == place for row in rows) for place in SPLITS
    ]
    _check_sizes([len(part) for part in parts], shares, max(map(len, sets)))
    return parts[TRAIN], parts[VALIDATION], parts[TEST]


def _check_sizes(sizes: Sequence[int], shares: Sequence[float], largest: int) -> None:
    """Refuse splits that are nearly empty because too many rows stay together.

    Raises:
        ValueError: If validation or test has less than a third of its share, and lacks ten rows or more.
    """
    wanted = [share * sum(sizes) for share in shares]
    if all(size >= asked / 3 or asked - size < 10 for size, asked in zip(sizes, wanted, strict=True)):
        return
    found = ", ".join(f"{name} {size}" for name, size in zip(("train", "validation", "test"), sizes, strict=True))
    raise ValueError(
        f"data.validation_fraction and data.test_fraction ask for {wanted[VALIDATION]:.0f} and {wanted[TEST]:.0f} of "
        f"{sum(sizes)} rows, and the nearest that can be drawn is {found}: {largest} rows belong together, by their "
        f"group or equal texts; set them to {sizes[VALIDATION] / sum(sizes):.2g} and "
        f"{sizes[TEST] / sum(sizes):.2g} if that is meant, or give the splits yourself"
    )


def _cannot_be_split(labels: Sequence[str], keys: Sequence[tuple[str, ...]] | None, num_sets: int) -> str:
    held = counted(len(labels), "row")
    if keys is not None:
        held += f" share {counted(len(set(keys)), 'text')}"
    return (
        f"{held} and carry {counted(len(set(labels)), 'label')}: rows of one group or of equal texts stay in one "
        f"split, which leaves {counted(num_sets, 'set')} of rows for three splits; leave out data.group_column, use "
        "data with more texts, or give the splits yourself (data.split_column)"
    )


class _Draw:
    """Puts items into splits, one after the other in random order, each into the split that is furthest behind."""

    def __init__(self, items: Sequence[Counter[int]], shares: Sequence[float]) -> None:
        self.items, self.shares = items, shares
        self.totals: Counter[int] = Counter()
        self.num_items: Counter[int] = Counter()
        for item in items:
            self.totals.update(item)
            self.num_items.update(list(item))
        self.sizes = [item.total() for item in items]
        self.room = [share * sum(self.sizes) for share in shares]
        self.required = [list(item) for item in items]
        # Every class may be had in as many ways whichever place one item has, so the largest may choose.
        largest = max(range(len(items)), key=lambda index: self.sizes[index])
        self.first = (
            {largest: self.room.index(max(self.room))} if not any(self._fits(largest, p) for p in SPLITS) else {}
        )

    def places(self, generator: random.Random) -> tuple[list[int], float]:
        """The split of each item, and how far labels and splits are from their shares."""
        covered, given_up = cover(self.required, len(self.shares), generator, self._fits, self.first)
        # What cannot be had once cannot be had in another draw either.
        self.required = [[label for label in labels if label not in given_up] for labels in self.required]
        filling = _Filling(self.shares)
        for index, place in covered.items():
            filling.put(self.items[index], place)
        rest = [index for index in range(len(self.items)) if index not in covered]
        generator.shuffle(rest)
        # Labels of one or two items first: they are to be learnt, if they cannot be everywhere.
        rest.sort(key=lambda index: not self._rare(index))
        for index in rest:
            item = self.items[index]
            lacks = any(not filling.held[TRAIN][label] for label in self._rare(index))
            has_room = filling.sizes[TRAIN] + self.sizes[index] <= self.room[TRAIN]
            covered[index] = TRAIN if lacks and has_room else filling.furthest_behind(item)
            filling.put(item, covered[index])
        return [covered[index] for index in range(len(self.items))], self._distance(filling)

    def _fits(self, index: int, place: int) -> bool:
        return self.sizes[index] <= self.room[place]

    def _rare(self, index: int) -> list[int]:
        """The labels of an item that cannot be in every split."""
        return [label for label in self.items[index] if self.num_items[label] < len(self.shares)]

    def _distance(self, filling: "_Filling") -> float:
        """By how many rows labels and splits miss their shares, those that are absent where they need not be first."""
        common = [label for label, num in self.num_items.items() if num >= len(self.shares)]
        absent = sum(not counts[label] for counts in filling.held for label in common)
        missed = sum(abs(size - room) for size, room in zip(filling.sizes, self.room, strict=True))
        for counts, share in zip(filling.held, self.shares, strict=True):
            missed += sum(abs(counts[label] - share * total) for label, total in self.totals.items())
        return absent * 3.0 * sum(self.sizes) + missed


class _Filling:
    """What is in each split so far."""

    def __init__(self, shares: Sequence[float]) -> None:
        self.shares = shares
        self.sizes = [0] * len(shares)
        self.held = [Counter[int]() for _ in shares]

    def put(self, item: Counter[int], place: int) -> None:
        """Add an item to a split."""
        self.sizes[place] += item.total()
        self.held[place].update(item)

    def furthest_behind(self, item: Counter[int]) -> int:
        """The split in which the item leaves the smallest squared distance from what is placed by then, in shares."""
        num_rows = item.total()
        placed = sum(self.sizes) + num_rows
        # Of the squares only the part that depends on the split counts.
        behind = [num_rows * (share * placed - size) for share, size in zip(self.shares, self.sizes, strict=True)]
        for label, count in item.items():
            so_far = sum(counts[label] for counts in self.held) + count
            for place, share in enumerate(self.shares):
                behind[place] += count * (share * so_far - self.held[place][label])
        return max(range(len(behind)), key=lambda place: behind[place])
