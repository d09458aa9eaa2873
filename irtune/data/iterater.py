"""IteraTeR: sentence revisions of arXiv, Wikipedia and news texts with the intention that people annotated."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from irtune.data.cells import LabelReader
from irtune.data.dataset import DataError, DatasetConfig, Example, LabelledDataset, Split, of_each
from irtune.data.hub import load_from_hub
from irtune.data.reading.columnar import of_datasets
from irtune.data.reading.kinds import read_tables
from irtune.data.reading.table import Columns, Options, Table
from irtune.data.rows import Problem, SkipBadRows, label_problem, partition, skip_notes, skip_or_stop, text_problem
from irtune.data.tabular import read_all

HUB_NAME = "wanyu/IteraTeR_human_sent"
LABELS = ("clarity", "fluency", "coherence", "style", "meaning-changed")
DROPPED_LABEL = "others"
COLUMNS = Columns({"before_column": "before_sent", "after_column": "after_sent", "label_column": "labels"})
DOCUMENT = "doc_id"
FILE_STEMS: dict[Split, str] = {"train": "train", "validation": "dev", "test": "test"}
REMEDY = (
    "Set data.path to a folder with its train.json, dev.json and test.json, or HF_HUB_OFFLINE=1 to use a copy that is "
    "already in the local cache"
)


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
        """Read the files below ``path``, or the hub's copy, or the local cache of that with ``HF_HUB_OFFLINE``."""
        problems: list[Problem] = []
        if self.path is None:
            published = load_from_hub(HUB_NAME, None, None, REMEDY)
            tables = of_datasets({split: published[split] for split in FILE_STEMS}, HUB_NAME, COLUMNS)
        else:
            tables = tables_from_folder(self.path.expanduser())
        have_documents = all(DOCUMENT in table.columns for table in tables)
        columns = Columns({**COLUMNS.names, "group_column": DOCUMENT}) if have_documents else COLUMNS
        rows = read_all(tables, columns, LabelReader(), problems)
        num_rows = len(rows) + len(problems)
        kept = [row for row in rows if row.label != DROPPED_LABEL]
        kept = partition(kept, text_problem, problems)
        kept = partition(kept, label_problem(LABELS), problems)
        skip_or_stop(problems, num_rows, self.skip_bad_rows)
        splits: dict[Split, tuple[Example, ...]] = {
            split: tuple(row.example() for row in kept if row.split == split) for split in FILE_STEMS
        }
        prompt = self.prompt("revisions", "What is the intention of this revision")
        notes = (*(note for table in tables for note in table.notes), *skip_notes(problems, kept, LABELS))
        grouped_by = "document" if have_documents else ""
        return LabelledDataset(self.name, LABELS, splits, prompt, len(problems), notes, grouped_by)


def tables_from_folder(folder: Path) -> list[Table]:
    """The tables of the three files in ``folder``.

    Raises:
        DataError: With every file that is absent.
    """

    def read(split: Split) -> list[Table]:
        candidates = [folder / f"{FILE_STEMS[split]}{suffix}" for suffix in (".json", ".jsonl")]
        path = next((candidate for candidate in candidates if candidate.is_file()), None)
        if path is None:
            raise DataError(f"data.path={folder}: holds neither {candidates[0].name} nor {candidates[1].name}")
        return [replace(table, split=split) for table in read_tables(path, COLUMNS, Options())]

    return [table for tables in of_each(read, FILE_STEMS) for table in tables]
