"""IteraTeR: sentence revisions of arXiv, Wikipedia and news texts with the intention that people annotated."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from irtune.data.base import DataError, DatasetConfig, Example, LabelledDataset, Split
from irtune.data.rows import Problem, Row, SkipBadRows, label_problem, partition, skip_or_stop, text_problem
from irtune.data.tables import Columns, Record, read_rows, rows_of

HUB_NAME = "wanyu/IteraTeR_human_sent"
LABELS = ("clarity", "fluency", "coherence", "style", "meaning-changed")
DROPPED_LABEL = "others"
COLUMNS = Columns("before_sent", "after_sent", "labels")
FILE_STEMS: dict[Split, str] = {"train": "train", "validation": "dev", "test": "test"}
REACHABLE_WITHIN_S = 5.0


class IteraterConfig(DatasetConfig):
    """The human-annotated sentence pairs of IteraTeR in their published splits, without those labelled "others".

    Source: Du et al. 2022, "Understanding Iterative Revision from Human-Written Text", ACL;
    huggingface.co/datasets/wanyu/IteraTeR_human_sent.
    """

    name: Literal["iterater"] = "iterater"
    path: Path | None = Field(
        None,
        description="folder with train, dev and test as .json or .jsonl (JSON lines); default: the Hugging Face hub",
    )
    skip_bad_rows: SkipBadRows = False

    def read(self) -> LabelledDataset:
        """Read the files below ``path``, or the hub's copy."""
        problems: list[Problem] = []
        rows = rows_from_hub(problems) if self.path is None else rows_from_folder(self.path, problems)
        kept = [row for row in rows if row.label != DROPPED_LABEL]
        kept = partition(kept, text_problem, problems)
        kept = partition(kept, label_problem(LABELS), problems)
        skipped = skip_or_stop(problems, len(rows), self.skip_bad_rows)
        splits: dict[Split, tuple[Example, ...]] = {
            split: tuple(row.example() for row in kept if row.split == split) for split in FILE_STEMS
        }
        prompt = self.prompt("revisions", "What is the intention of this revision")
        return LabelledDataset(self.name, LABELS, splits, prompt, skipped)


def rows_from_folder(folder: Path, problems: list[Problem]) -> list[Row]:
    """The rows of the three files in ``folder``."""
    rows: list[Row] = []
    for split, stem in FILE_STEMS.items():
        candidates = [folder / f"{stem}{suffix}" for suffix in (".json", ".jsonl")]
        path = next((candidate for candidate in candidates if candidate.is_file()), None)
        if path is None:
            raise DataError(f"data.path={folder}: holds neither {candidates[0].name} nor {candidates[1].name}")
        rows += [replace(row, split=split) for row in read_rows(path, COLUMNS, split, problems)]
    return rows


def rows_from_hub(problems: list[Problem]) -> list[Row]:
    """The rows of the hub's copy (or of the local cache of it, where ``HF_HUB_OFFLINE`` is set).

    Raises:
        DataError: If the hub cannot be reached, known after seconds.
    """
    import datasets
    import huggingface_hub

    remedy = (
        "set data.path to a folder with its train.json, dev.json and test.json, or HF_HUB_OFFLINE=1 to use a copy "
        "that is already in the local cache"
    )
    try:
        if not huggingface_hub.is_offline_mode():
            # load_dataset alone retries for half a minute before it says that there is no network.
            huggingface_hub.HfApi().dataset_info(HUB_NAME, timeout=REACHABLE_WITHIN_S)
        splits = datasets.load_dataset(HUB_NAME)
    except Exception as error:
        # Which exceptions these are changes with the HTTP library below the hub's client.
        raise DataError(f"{HUB_NAME} cannot be read from the Hugging Face hub ({error}): {remedy}") from error
    rows: list[Row] = []
    for split in FILE_STEMS:
        source = f"{HUB_NAME} {split}"
        records = [Record(number, f"{source}:{number}", cells) for number, cells in enumerate(splits[split], 1)]
        rows += [replace(row, split=split) for row in rows_of(source, records, COLUMNS, split, problems)]
    return rows
