import io
import re
from collections.abc import Callable

import pytest
from rich.console import Console

from irtune.analysis.tables import COLUMNS, columns_of, duration, operations, trial_table
from irtune.analysis.trials import TrialRow

Trial = Callable[..., TrialRow]


@pytest.fixture
def rows(trial: Trial) -> list[TrialRow]:
    return [
        trial("all", num_wrong=160, seconds=98765.0, peak_memory_bytes=123.4 * 2**30),
        trial("variance_split", num_wrong=80, mean_active=10.23, num_blocks=32, reselect_every=1000),
        trial("my_package.policies:MyPolicy", num_wrong=120, flops=9.996e14, within_block="rms"),
        trial(
            "lisa", status="failed", validation_score=None, test_score=None, train_loss=None, seconds=None, flops=None
        ),
        trial("ist", status="pruned", validation_score=0.9, test_score=None),
    ]


def rendered(rows: list[TrialRow], width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(trial_table(rows).rich(width))
    return console.export_text()


@pytest.mark.parametrize("width", [68, 80, 100, 160])
def test_every_number_is_whole_at_any_width(rows: list[TrialRow], width: int) -> None:
    text = rendered(rows, width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text
    lines = [line.split() for line in text.splitlines()]
    for row in trial_table(rows).lines:
        shown = [
            cell
            for cell, column in zip(row.cells, COLUMNS, strict=True)
            if not column.may_fold and column.from_width <= width
        ]
        assert any(set(shown) <= set(line) for line in lines), shown


def test_a_wide_terminal_shows_every_column_and_a_narrow_one_the_essential(rows: list[TrialRow]) -> None:
    assert "trial-variance_split" in rendered(rows, 160)
    narrow = rendered(rows, 100)
    assert "trial-" not in narrow
    assert "GiB" not in rendered(rows, 80)
    for heading in ("strategy", "blocks", "every", "within", "val", "test", "loss", "time", "FLOPs", "lowest", "GiB"):
        assert heading in narrow


def test_sorted_by_validation_with_best_and_baseline_marked(rows: list[TrialRow]) -> None:
    texts = trial_table(rows).lines
    names = [text.cells[0] for text in texts]
    assert names == [
        "trial-ist",
        "trial-variance_split",
        "trial-my_package.policies:MyPolicy",
        "trial-all",
        "trial-lisa",
    ]
    # The first was stopped, and only a finished trial can be the best.
    assert [text.mark for text in texts] == ["", "*", "", "=", ""]
    assert [text.mark for text in trial_table(rows[:1]).lines] == ["*="]
    lines = rendered(rows, 160).splitlines()
    assert [line.split()[1] for line in lines if re.match(r"\s*[*=] +trial", line)] == [
        "trial-variance_split",
        "trial-all",
    ]


def test_cells_say_what_was_measured(rows: list[TrialRow]) -> None:
    cells = {column.heading: column.cell(rows[1]) for column in columns_of(rows)}
    assert cells == {
        "trial": "trial-variance_split",
        "strategy": "variance_split",
        "blocks": "10.2/32",
        "new every": "1000",
        "within block": "l2",
        "val F1": "0.800",
        "test F1": "0.800",
        "train loss": "0.457",
        "time": "11m40s",
        "FLOPs": "2.50P",
        "param share": "25%",
        "lowest block": "4.5",
        "peak GiB": "12.5",
        "seed": "171",
        "status": "finished",
    }
    failed = {column.heading: column.cell(rows[3]) for column in columns_of(rows)}
    assert [heading for heading, cell in failed.items() if cell == "–"] == [
        *("val F1", "test F1", "train loss", "time", "FLOPs")
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0s"),
        (9.97, "10.0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (3599.7, "1h00m"),
        (12345, "3h25m"),
        (1e6, "11d13h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("flops", "text"),
    [(12, "12"), (1.5e6, "1.50M"), (8.42e11, "842G"), (9.996e14, "1.00P"), (5.61e16, "56.1P"), (3e18, "3.00E")],
)
def test_operations(flops: float, text: str) -> None:
    assert operations(flops) == text


def test_markdown_has_one_line_a_trial_and_its_cells_cannot_break_it(trial: Trial) -> None:
    lines = trial_table([trial(name="a|b"), trial("all", num_wrong=200)]).markdown().splitlines()
    assert len(lines) == 4
    assert [line.replace(r"\|", "").count("|") for line in lines] == [len(COLUMNS) + 2] * 4
    assert lines[2].startswith(r"| * | a\|b | top_k |")
    assert lines[3].startswith("| = | trial-all | all |")


def test_names_are_not_taken_for_markup(trial: Trial) -> None:
    assert "[red]name" in rendered([trial(name="[red]name")], 160)


def test_macro_scores_over_some_classes_only_say_so(trial: Trial) -> None:
    rows = [trial("all"), trial(classes={"test": "3 of 4 classes"})]
    assert "test F1 is over 3 of 4 classes" in trial_table(rows).markdown()
    meanings = {column.heading: column.meaning for column in columns_of(rows)}
    assert meanings["test F1"].endswith("over 3 of 4 classes")
    assert "classes" not in meanings["val F1"]
    assert "test F1 is over 3 of 4 classes" in str(trial_table(rows).rich().caption)
    assert "classes" not in trial_table([trial("all"), trial()]).markdown()
