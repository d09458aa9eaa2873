"""Puts something of every class into every place, where that can be done."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence

FIRST_BUDGET, NEXT_BUDGET = 5_000, 500
"""How many placements are tried before a class is given up, for the first one and for those after it."""

EVERYTHING = -1
"""Stands for a class that all items have: no place may stay empty."""

Fits = Callable[[int, int], bool]
Move = tuple[int, int]
"""An item, and the place it is put into."""


def cover(
    classes_of: Sequence[Sequence[int]],
    num_places: int,
    generator: random.Random,
    fits: Fits,
    first: Mapping[int, int] | None = None,
) -> tuple[dict[int, int], list[int]]:
    """Place a few of the items, so that every class has an item in every place, and no place is empty.

    A search with backtracking over the classes that share items; one that does not is simply dealt out. Where classes
    contradict each other, or the search takes too long, the most contradicted one is given up, until the rest can be
    done.

    Args:
        classes_of: The classes of each item, numbered from 0; at least as many items as there are places.
        num_places: Number of places; classes with fewer items than that are passed over.
        generator: Which items go where is drawn from it.
        fits: Whether an item has room in a place; one that has not is taken only if nothing else is left.
        first: Items that are in a place already.

    Returns:
        The place of each item that was placed, and the classes that were given up.
    """
    order = list(range(len(classes_of)))
    generator.shuffle(order)
    items: dict[int, list[int]] = {}
    for item in order:
        for number in classes_of[item]:
            items.setdefault(number, []).append(item)
    items = {number: items[number] for number in sorted(items) if len(items[number]) >= num_places}
    placed = dict(first or {})
    tied: dict[int, list[int]] = {}
    for number, members in items.items():
        own = [item for item in members if sum(other in items for other in classes_of[item]) == 1]
        lacking = set(range(num_places)) - {placed[item] for item in members if item in placed}
        own = [item for item in own if item not in placed]
        if len(own) < len(lacking):
            tied[number] = members
            continue
        for place in sorted(lacking):
            free = [item for item in own if item not in placed]
            placed[next((item for item in free if fits(item, place)), free[0])] = place
    if len(set(placed.values())) < num_places:
        tied[EVERYTHING] = order
        classes_of = [[*classes, EVERYTHING] for classes in classes_of]
    given_up: list[int] = []
    budget = FIRST_BUDGET
    while tied:
        search = _Search(tied, classes_of, num_places, placed, fits)
        if search.run(budget):
            return search.placed, given_up
        given_up.append(search.most_contradicted())
        del tied[given_up[-1]]
        budget = NEXT_BUDGET
    return placed, given_up


class _Search:
    """Depth first over placements; always for the class that has the fewest free items to spare."""

    def __init__(
        self,
        items: Mapping[int, Sequence[int]],
        classes_of: Sequence[Sequence[int]],
        num_places: int,
        placed: Mapping[int, int],
        fits: Fits,
    ) -> None:
        self.items, self.num_places, self.fits = items, num_places, fits
        self.classes_of = {i: [c for c in classes_of[i] if c in items] for own in items.values() for i in own}
        self.placed = dict(placed)
        self.held = {number: [0] * num_places for number in items}
        self.free = {number: len(own) for number, own in items.items()}
        self.dead_ends = dict.fromkeys(items, 0)
        for item, place in placed.items():
            if item in self.classes_of:
                self._count((item, place), 1)

    def run(self, budget: int) -> bool:
        """Return whether every class was brought into every place."""
        path: list[tuple[Iterator[Move], Move | None]] = []
        moves = self._moves()
        for _ in range(budget):
            if moves is None:
                return True
            move = next(moves, None)
            if move is not None:
                path.append((moves, move))
                self.placed[move[0]] = move[1]
                self._count(move, 1)
                moves = self._moves()
            elif path:
                moves, taken = path.pop()
                assert taken is not None
                del self.placed[taken[0]]
                self._count(taken, -1)
            else:
                return False
        return moves is None

    def most_contradicted(self) -> int:
        """The class at which the search most often came to an end."""
        return max(self.items, key=lambda number: (number != EVERYTHING, self.dead_ends[number]))

    def _count(self, move: Move, by: int) -> None:
        for number in self.classes_of[move[0]]:
            self.held[number][move[1]] += by
            self.free[number] -= by

    def _moves(self) -> Iterator[Move] | None:
        """Return what may be done next; nothing at a dead end, and None at the goal."""
        spare: dict[int, int] = {}
        for number, held in self.held.items():
            lacking = held.count(0)
            if lacking:
                spare[number] = self.free[number] - lacking
        if not spare:
            return None
        tightest = min(spare, key=lambda number: spare[number])
        if spare[tightest] < 0:
            self.dead_ends[tightest] += 1
            return iter(())
        place = self.held[tightest].index(0)
        free = [item for item in self.items[tightest] if item not in self.placed]
        return iter([(item, place) for item in sorted(free, key=lambda item: not self.fits(item, place))])
