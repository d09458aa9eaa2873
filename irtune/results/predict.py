"""Labels and probabilities of a file's rows, by the adapter of a trial or of a model in MLflow."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from irtune.analysis.metrics import evaluation
from irtune.analysis.tables import duration, worded
from irtune.config.load import apply_overrides, build
from irtune.config.schema import ExperimentConfig
from irtune.data.batches import ROWS_AT_ONCE
from irtune.data.dataset import DataError
from irtune.data.file import FileConfig
from irtune.data.label_names import counted, metric_labels, some
from irtune.data.reading.contents import kind_of
from irtune.data.rows import Problem, Row, skip_or_stop
from irtune.data.to_predict import RowsToPredict
from irtune.plugins import nearest
from irtune.results.prediction_files import check_out, predictions_to
from irtune.studies.progress import LINE_EVERY_S
from irtune.studies.recorded import StudyError, absent_adapter, find_trial
from irtune.studies.resume import IDENTITY
from irtune.tracking.address import is_in_mlflow, resolve_tracking_uri
from irtune.training.adapter_notes import NOTES, TABLES, AdapterNotes
from irtune.training.predictor import Device, Predictor
from irtune.training.record import ADAPTER

_MOST_UNKNOWN = 1000
_COLUMNS = ("before_column", "after_column", "text_column", "pairs", "label_column", "label_map")
_WRITTEN = ("delimiter", "encoding", "header", "quoting", "sheet")
_SETTINGS = tuple(f"data.{key}" for key in (*_COLUMNS, *_WRITTEN, "skip_bad_rows"))


def predict(
    source: str,
    file: Path,
    out: Path | None,
    storage: Path,
    device: Device,
    overrides: Mapping[str, Any],
    console: Console,
) -> None:
    """Classify the rows of a file, and score the predictions where the file has labels.

    All rows are checked before any is classified. The file is read in parts, so that memory does not grow with it, but
    for the probabilities of rows that have a label, from which scores are computed at the end.

    Args:
        source: An adapter's folder, a trial's, a study's folder or name, with ``:TRIAL`` behind it or not, or what
            ``irtune.tracking.model_source`` finds in MLflow.
        file: Of any kind that ``data.file`` reads.
        out: Where to write, by suffix as CSV, JSONL or Parquet; None: CSV on stdout.
        storage: Where studies lie.
        device: Where to compute.
        overrides: Of the settings of ``data.file`` that say how the file is read.
        console: For all that is said of it.

    Raises:
        ValueError: If there is no such adapter or file, or rows cannot be used.
    """
    with found_adapter(source, storage) as folder:
        _predict(folder, file, out, device, overrides, console)


def _predict(
    folder: Path, file: Path, out: Path | None, device: Device, overrides: Mapping[str, Any], console: Console
) -> None:
    notes = AdapterNotes.read(folder)
    if not file.exists():
        raise DataError(f"{file}: no such file. Correct the path.")
    if out is not None:
        check_out(out, file)
    rows = RowsToPredict(file, file_config(notes, file, overrides), notes.labels, "data.label_column" in overrides)
    survey = _Survey.of(rows, notes)

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    for note in [*rows.notes, *survey.notes()]:
        say(f"note: {note}")
    predictor = Predictor(folder, device)
    say(f"{folder}: {counted(survey.num_usable, 'row')} of {file}, on {predictor.device.type} in {predictor.precision}")
    started = time.perf_counter()
    num_cut, scored = 0, _Scored(notes.labels)
    with predictions_to(out, notes.labels) as write, _progress(console, survey.num_usable) as advance:
        usable = (row for row in rows if isinstance(row, Row))
        while pool := list(islice(usable, ROWS_AT_ONCE)):
            probabilities, cut = predictor.probabilities([row.texts for row in pool])
            write([row.id for row in pool], [notes.labels[i] for i in probabilities.argmax(axis=1)], probabilities)
            scored.add([row.label for row in pool], probabilities)
            num_cut += cut
            advance(len(pool))
    seconds = time.perf_counter() - started
    if num_cut:
        say(f"note: {counted(num_cut, 'row')} cut to the {notes.max_length} tokens that the model was trained on")
    said = f"{counted(survey.num_usable, 'row')} in {duration(seconds)}"
    say(said if out is None else f"wrote {out}: {said}")
    if survey.num_labelled:
        console.print(scored.table())


@contextmanager
def found_adapter(source: str, storage: Path) -> Iterator[Path]:
    """Find an adapter's folder; of one in MLflow a copy, which goes in the end. Arguments are those of ``predict``.

    Raises:
        ValueError: If there is none.
    """
    if Path(source).expanduser().exists() or not is_in_mlflow(source):
        yield find_adapter(source, storage)
        return
    # MLflow takes a second to import.
    from irtune.tracking.model_source import fetch_adapter

    with TemporaryDirectory(prefix="irtune-adapter-") as temporary:
        yield fetch_adapter(source, resolve_tracking_uri(None, storage), Path(temporary))


def find_adapter(source: str, storage: Path) -> Path:
    """The folder of an adapter; arguments are those of ``predict``.

    Raises:
        StudyError: If there is none, or the trial's was not kept.
    """
    given = Path(source).expanduser()
    if (given / NOTES).is_file() or (given / "adapter_config.json").is_file():
        return given
    if (given / ADAPTER / NOTES).is_file() and not (given / IDENTITY).is_file():
        return given / ADAPTER
    trial = find_trial(source, storage)
    folder = trial.folder / ADAPTER
    if not folder.is_dir():
        raise StudyError(f"{absent_adapter(trial.folder)}, and give that run")
    return folder


def file_config(notes: AdapterNotes, file: Path, overrides: Mapping[str, Any]) -> FileConfig:
    """How a file is read: its columns are those of the adapter's run, where that read tables, unless they are given.

    Raises:
        ValueError: If another setting is given, or the columns hold other texts than the model reads.
    """
    unknown = [key for key in overrides if key not in _SETTINGS]
    if unknown:
        raise ValueError(f"{unknown[0]}: is no setting of predictions: {nearest(unknown[0], _SETTINGS)}")
    of_run = notes.settings.get("data", {})
    kept = _COLUMNS if of_run.get("name") in TABLES else ()
    path = of_run.get("path")
    if of_run.get("name") == "file" and isinstance(path, str) and kind_of(Path(path)) == kind_of(file):
        kept = (*kept, *_WRITTEN)
    tree = {key: of_run[key] for key in kept if of_run.get(key) is not None}
    if notes.kind == "pairs":
        tree["pairs"] = "texts"
    elif notes.kind == "texts":
        tree = {"text_column": "text", **tree}
    whole = {"data": {**tree, "name": "file", "path": str(file)}}
    config = build(ExperimentConfig, apply_overrides(whole, overrides), "command line").data
    assert isinstance(config, FileConfig)
    if config.kind != notes.kind:
        raise ValueError(
            f"data.text_column, data.pairs: the model was trained on {notes.kind}, and these columns hold "
            f"{config.kind}; leave them out, or name columns that hold {notes.kind}"
        )
    return config


@dataclass
class _Survey:
    """What a file holds, found before anything is classified."""

    classes: frozenset[str]
    num_usable: int = 0
    num_labelled: int = 0
    num_unknown: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)

    @classmethod
    def of(cls, rows: RowsToPredict, notes: AdapterNotes) -> "_Survey":
        """Go through all rows.

        Raises:
            DataError: With every row that cannot be used, unless these are to be skipped; if none can.
        """
        survey = cls(frozenset(notes.labels))
        for row in rows:
            survey._add(row)
        num_rows = survey.num_usable + len(survey.problems)
        skip_or_stop(survey.problems, num_rows, rows.config.skip_bad_rows and survey.num_usable > 0)
        return survey

    def _add(self, row: Row | Problem) -> None:
        if isinstance(row, Problem):
            self.problems.append(row)
            return
        self.num_usable += 1
        if row.label in self.classes:
            self.num_labelled += 1
        elif row.label:
            self.num_unknown += 1
            if row.label in self.unknown or len(self.unknown) < _MOST_UNKNOWN:
                self.unknown[row.label] += 1

    def notes(self) -> Iterator[str]:
        """What is left out, and what is not scored."""
        if self.problems:
            kinds = Counter(problem.kind for problem in self.problems)
            why = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
            first = self.problems[0].place
            yield f"{counted(len(self.problems), 'row')} left out: {why}; the first is {first} (data.skip_bad_rows)"
        if self.num_unknown:
            names = some([repr(label) for label, _ in self.unknown.most_common()])
            yield (
                f"{counted(self.num_unknown, 'row')} with a label that the model does not know ({names}; it knows "
                f"{', '.join(sorted(self.classes))}): classified, and not scored"
            )
        without = self.num_usable - self.num_labelled - self.num_unknown
        if without and self.num_usable > without:
            yield f"{counted(without, 'row')} without a label: classified, and not scored"


class _Scored:
    """The predictions of rows whose label is known."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self._labels = labels
        self._class_of = {label: index for index, label in enumerate(labels)}
        self._truth: list[int] = []
        self._probabilities: list[np.ndarray] = []

    def add(self, labels: list[str], probabilities: np.ndarray) -> None:
        """Take those of a pool whose label is one of the model's."""
        known = [index for index, label in enumerate(labels) if label in self._class_of]
        if known:
            self._truth += [self._class_of[labels[index]] for index in known]
            self._probabilities.append(probabilities[known])

    def table(self) -> Table:
        """The metrics of an evaluation."""
        found = evaluation(np.array(self._truth), np.concatenate(self._probabilities), metric_labels(self._labels))
        shown = Table(title=f"Scores of {counted(len(self._truth), 'labelled row')}", box=SIMPLE_HEAD)
        shown.add_column("metric")
        shown.add_column("value", justify="right")
        for name, value in found.items():
            shown.add_row(name, worded(name, value))
        return shown


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Callable[[int], None]]:
    """What is told of rows that are done: a bar on a terminal, else a line now and then."""
    if console.is_terminal:
        columns = (TextColumn("rows"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("rows", total=total)
            yield lambda num_rows: bar.advance(task, num_rows)
        return
    started = told = time.perf_counter()
    done = 0

    def advance(num_rows: int) -> None:
        nonlocal done, told
        done, now = done + num_rows, time.perf_counter()
        if now - told >= LINE_EVERY_S and done < total:
            told = now
            left = duration((now - started) / done * (total - done))
            console.print(f"{done} of {total} rows, {left} left", highlight=False, soft_wrap=True, markup=False)

    yield advance
