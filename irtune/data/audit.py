"""What looks doubtful in a dataset that can be used: repeated and contradictory texts, absent classes, odd labels."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from irtune.data.dataset import SPLITS, Example, LabelledDataset, Split
from irtune.data.equal_texts import text_key
from irtune.data.label_names import counted, metric_labels, plain_label, some

LARGE_SHARE = 0.2
"""A text in more of the rows than this makes drawn splits unequal."""

ROWS_FOR_THREE_SPLITS = 3
MANY_SCORES, FEW_SCORES = 8, 5
"""Numbers look like scores if there are this many and some are no whole numbers, or this many with hardly two rows."""

_NUMBER = re.compile(r"\s*[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?\s*%?\s*")

Key = tuple[str, ...]


def audit(data: LabelledDataset) -> tuple[str, ...]:
    """A sentence for each doubt, with figures; texts are counted and never shown."""
    keys = {split: [text_key(example.texts) for example in data.splits[split]] for split in SPLITS}
    return (
        *_shared_texts(keys),
        *_repeated_texts(keys),
        *_contradictions([example for split in SPLITS for example in data.splits[split]]),
        *_absent_classes(data),
        *_small_training_split(data),
        *_odd_labels(data),
    )


def _shared_texts(keys: Mapping[Split, Sequence[Key]]) -> Iterator[str]:
    pairs: tuple[tuple[Split, Split], ...] = (("validation", "train"), ("test", "train"), ("test", "validation"))
    for split, other in pairs:
        there = set(keys[other])
        shared = sum(key in there for key in keys[split])
        if shared:
            yield (
                f"{shared} of {counted(len(keys[split]), f'{split} text')} are also in {other} "
                f"({shared / len(keys[split]):.0%}), which makes {split} scores too good; "
                "leave them out of one of the two, or use data with more texts"
            )


def _repeated_texts(keys: Mapping[Split, Sequence[Key]]) -> Iterator[str]:
    counts = Counter(key for own in keys.values() for key in own)
    num_rows = counts.total()
    if len(counts) < num_rows:
        yield f"{num_rows - len(counts)} of {num_rows} rows repeat the text of another: there are {len(counts)} texts"
    key, most = counts.most_common(1)[0] if counts else ((), 0)
    if most > max(1, LARGE_SHARE * num_rows):
        homes = [split for split in SPLITS if key in keys[split]]
        yield (
            f"one text is in {most} of {num_rows} rows, in {' and '.join(homes)}; equal texts stay in one drawn split, "
            f"and the splits are {_sizes(keys)}"
        )


def _contradictions(examples: Sequence[Example]) -> Iterator[str]:
    labels_of: dict[Key, Counter[str]] = {}
    for example in examples:
        key = text_key(example.texts)
        # Where a revision is of white space or case alone, that is what tells two of them apart.
        only_form = len(key) > 1 and len(set(key)) == 1
        labels_of.setdefault(example.texts if only_form else key, Counter())[example.label] += 1
    torn = [counts for counts in labels_of.values() if len(counts) > 1]
    if torn:
        num_rows, labels = (
            sum(counts.total() for counts in torn),
            sorted({label for counts in torn for label in counts}),
        )
        each = "" if len(torn) == 1 else ", each text at least two of them"
        yield (
            f"{num_rows} rows share {counted(len(torn), 'text')} and carry {len(labels)} labels ({some(labels)})"
            f"{each}: no model can be right about all of them"
        )


def _absent_classes(data: LabelledDataset) -> Iterator[str]:
    counts = Counter(example.label for split in SPLITS for example in data.splits[split])
    for split in SPLITS:
        held = {example.label for example in data.splits[split]}
        absent = [label for label in data.labels if label not in held]
        if not absent:
            continue
        listed = some([f"{label} ({counted(counts[label], 'row')} in all)" for label in absent])
        so = "it cannot be learnt" if len(absent) == 1 else "they cannot be learnt"
        if split != "train":
            so = f"macro scores on {split} are over the {counted(len(held), 'class')} that it has"
        yield f"{split} has {len(held)} of {len(data.labels)} classes and lacks {listed}: {so}"


def _small_training_split(data: LabelledDataset) -> Iterator[str]:
    sizes = {split: len(data.splits[split]) for split in SPLITS}
    if sizes["train"] < max(sizes.values()):
        yield f"train is smaller than another split: {_sizes(data.splits)}"


def _odd_labels(data: LabelledDataset) -> Iterator[str]:
    counts = Counter(example.label for split in SPLITS for example in data.splits[split])
    if _look_like_scores(data.labels, counts):
        yield (
            f"{len(data.labels)} labels for {counted(counts.total(), 'row')} look like scores, not classes "
            f"({some(data.labels)}); make a few classes of them with data.label_map, or name another data.label_column"
        )
    else:
        rare = [label for label in data.labels if 0 < counts[label] < ROWS_FOR_THREE_SPLITS]
        if rare:
            yield (
                f"classes with fewer than {ROWS_FOR_THREE_SPLITS} rows, too few for three splits: {some(rare)} "
                f"({len(rare)} of {counted(len(data.labels), 'class')}); data.label_map can join them with others"
            )
    yield from _similar_labels(data.labels, counts)
    names = metric_labels(data.labels)
    shared = [(label, name) for label, name in zip(data.labels, names, strict=True) if name != plain_label(label)]
    if shared:
        listed = some([f"{label!r} as {name!r}" for label, name in shared])
        yield f"labels that would share a name in metrics are numbered there: {listed}; data.label_map renames them"


def _similar_labels(labels: Sequence[str], counts: Mapping[str, int]) -> Iterator[str]:
    alike: dict[Key, list[str]] = {}
    for label in labels:
        alike.setdefault(text_key((label,)), []).append(label)
    groups = [sorted(group, key=lambda label: -counts[label]) for group in alike.values() if len(group) > 1]
    if groups:
        listed = some(["/".join(map(repr, sorted(group))) for group in groups])
        kept, other = groups[0][:2]
        yield (
            f"labels differ in case or white space only: {listed}; if they mean the same, data.label_map joins them: "
            f"{{{other!r}: {kept!r}}}"
        )


def _look_like_scores(labels: Sequence[str], counts: Counter[str]) -> bool:
    """Return whether nearly all labels are numbers, and either many with some broken ones or with hardly a row each."""
    numbers = [label for label in labels if _NUMBER.fullmatch(label)]
    if len(numbers) < 0.9 * len(labels):
        return False
    has_decimals = any(float(re.sub(r"[%\s]", "", n).replace(",", ".")) % 1 for n in numbers)
    rows_each = counts.total() / len(labels)
    return (has_decimals and len(numbers) >= MANY_SCORES) or (rows_each < 2 and len(numbers) >= FEW_SCORES)


def _sizes(splits: Mapping[Split, Sequence[object]]) -> str:
    return ", ".join(f"{split} {len(splits[split])}" for split in SPLITS)
