"""The rows of a file to be classified: texts as training reads them, and labels where there are any."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from irtune.data.cells import LabelReader
from irtune.data.dataset import DataError
from irtune.data.file import FileConfig
from irtune.data.reading.in_parts import read_in_parts
from irtune.data.reading.table import Columns, Options, Record, Table
from irtune.data.records import each_row
from irtune.data.rows import Problem, Row, text_problem

LABEL = "label_column"


@dataclass
class RowsToPredict:
    """The rows of a file of any size, read anew each time that they are gone through.

    A row whose label is missing has an empty one.

    Args:
        path: The file.
        config: Its columns, and how it is read.
        classes: The labels of the model.
        needs_labels: Whether a file without the column of labels is refused.

    Attributes:
        notes: What was guessed in reading, after the rows were gone through.
    """

    path: Path
    config: FileConfig
    classes: Sequence[str]
    needs_labels: bool = False
    notes: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Row | Problem]:
        """Each row, or why it cannot be used.

        Raises:
            DataError: If the file cannot be read, lacks a column, or has no rows.
        """
        self.notes, num_rows = [], 0
        reader = LabelReader(self.classes, self.config.label_map)
        tables, columns = self._tables()
        for table in tables:
            self.notes += table.notes
            for row in each_row(*self._with_labels(table, columns), reader, table.split or "row"):
                num_rows += 1
                yield (text_problem(row) if isinstance(row, Row) else None) or row
        if not num_rows:
            raise DataError(f"{self.path}: holds no rows. Give a file with a row per example.")
        self.notes += reader.notes()

    def _tables(self) -> tuple[Iterator[Table], Columns]:
        """The tables, and the columns that are looked for in them."""
        config, wanted = self.config, self.config.columns()
        options = Options(config.delimiter, config.encoding, config.header, config.quoting, config.sheet)
        tables = read_in_parts(self.path, wanted, options)
        try:
            return chain([next(tables)], tables), wanted
        except DataError:
            # Kinds of files whose columns are looked up at once.
            if self.needs_labels:
                raise
        tables = read_in_parts(self.path, _without_label(wanted), options)
        return chain([next(tables)], tables), _without_label(wanted)

    def _with_labels(self, table: Table, columns: Columns) -> tuple[Table, Columns]:
        """The table, whose records of JSON get an empty label where they have none, and what to look for in it."""
        name = columns.names.get(LABEL)
        if name is None or self.needs_labels or not table.columns:
            return table, columns
        of_labels = Columns({LABEL: name})
        if not of_labels.found_in(table.columns):
            return table, _without_label(columns)
        head, *deeper = of_labels.paths(table.columns, table.source)[LABEL]
        return table if deeper else replace(table, records=_filled(table.records, head)), columns


def _filled(records: Iterable[Record | Problem], column: str) -> Iterator[Record | Problem]:
    for record in records:
        if isinstance(record, Record) and column not in record.cells:
            record = replace(record, cells={**record.cells, column: None})
        yield record


def _without_label(columns: Columns) -> Columns:
    return replace(columns, names={option: name for option, name in columns.names.items() if option != LABEL})
