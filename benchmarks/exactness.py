"""Is training with blocks that freeze and thaw exact? 256 cells, each held against plain PyTorch.

    python benchmarks/exactness.py [--only stage=2,precision=fp32] [--cells 16] [--sabotage [FAULT]]
                                   [--out results.json] [--device cuda]

The cells are all combinations of ZeRO stage, 1 or 2 ranks, precision, gradient accumulation, clipping and tuner. Each
trains 6 steps of a 4-block model with changing active sets, weight decay on and dropout off, and saves and resumes on
the way. Further runs are saved in one cell and resumed at another stage and world size. On a GPU there are other
cells: those of one rank, in fp16 too (with a loss scale that stays the same), by kernels that repeat their sums.

Prints a line a cell as Markdown, then how large the differences are by stage and precision; progress goes to stderr.
Exits with 1 and names what is off unless in every cell

- weights, masters, moments and step counts of frozen blocks keep every bit on every rank,
- every rank trains the same blocks, and keeps the step count that a block's active steps add up to,
- every step's weights, moments and block scores are what plain PyTorch makes of the same state, each element to within
  what rounding allows it (1 in the table; ``exactness_reference.py`` derives it), the first state is PyTorch's, and the
  model's weights are the masters rounded,
- a resumed run ends with every bit of weights, moments, step counts, policy state and generator draws of the
  uninterrupted one (elsewhere: starts with every bit of weights, moments and step counts that was saved).

With --sabotage, which removes the hooks that freeze, it has to fail everywhere but at stage 0 in fp32, where the
optimizer passes over a parameter without a gradient by itself. Other faults that it has to notice are a block's
gradients 1 % larger (scale), a micro-batch left out (micro-batch) and clipping to a norm 1 % larger (clipping); at
stage 3 in bf16 rounding may do what 1 % does.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and in the ranks
os.environ.setdefault("PYTHONWARNINGS", "ignore")

import torch
from exactness_cells import Cell, Move, all_cells, all_moves

from irtune.studies.provenance import environment
from irtune.training.distributed import leave_at_exit

COUNTS = ("frozen_changed", "wrong_step_counts", "wrong_active_sets", "wrong_weights", "resume_differing")
ERRORS = ("weights_error", "moments_error", "scores_error")
COLUMNS = ("stage", "ranks", "precision", "accumulation", "clipping", "tuner")
HEADINGS = {
    "frozen_changed": "frozen tensors changed",
    "wrong_step_counts": "ranks with wrong step counts",
    "wrong_active_sets": "ranks with another active set",
    "wrong_weights": "weights not their masters rounded",
    "resume_differing": "tensors changed by resuming",
    "weights_error": "weights off / allowed",
    "moments_error": "moments off / allowed",
    "scores_error": "scores off / allowed",
}


@dataclass(frozen=True)
class Row:
    """A cell or a move, and what was found there."""

    what: Cell | Move
    found: Mapping[str, Any]
    seconds: float

    def wrong(self) -> list[str]:
        """What is off, in words."""
        counted = [f"{self.found[key]} {HEADINGS[key]}" for key in COUNTS if self.found[key]]
        return counted + [
            f"{HEADINGS[key].removesuffix(' / allowed')} by {self.found[key]:.2g} times what rounding allows"
            for key in ERRORS
            # Written so that a NaN is off.
            if not self.found[key] <= 1
        ]

    def line(self) -> str:
        """The row as Markdown."""
        values = [self.what.labels()[key] for key in COLUMNS]
        values += [str(self.found[key]) for key in COUNTS]
        values += [f"{self.found[key]:.2g}" for key in ERRORS]
        return "| " + " | ".join([*values, f"{self.seconds:.1f}", "off" if self.wrong() else "pass"]) + " |"


def matches(what: Cell | Move, wanted: Sequence[Mapping[str, str]]) -> bool:
    """Whether it has all labels of some filter."""
    return any(each.items() <= what.labels().items() for each in wanted)


def run_all(cells: Sequence[Cell], moves: Sequence[Move], device: str, sabotage: str | None) -> Iterator[Row]:
    """Every row as soon as it is there. One group of processes a world size, which runs its cells one after the other;
    the last one resumes on one rank what two ranks saved."""
    with tempfile.TemporaryDirectory() as folder:
        for ranks, last in ((1, False), (2, False), (1, True)):
            here = [cell for cell in cells if cell.ranks == ranks and not last]
            saved = [move for move in moves if move.source.ranks == ranks and not last]
            resumed = [move for move in moves if move.target.ranks == ranks and last == (ranks == 1)]
            if here or saved or resumed:
                yield from _spawn(ranks, device, (here, saved, resumed), Path(folder), sabotage)


def _spawn(
    ranks: int, device: str, jobs: tuple[list[Cell], list[Move], list[Move]], folder: Path, sabotage: str | None
) -> Iterator[Row]:
    method = "spawn" if device == "cuda" else "fork"
    if method == "fork":
        # What is imported before the fork no rank needs to import again. CUDA cannot be forked.
        os.environ["DS_ACCELERATOR"] = device
        import deepspeed  # noqa: F401
        import exactness_run  # noqa: F401
    queue = torch.multiprocessing.get_context(method).SimpleQueue()
    # The last rank to leave removes the file.
    with tempfile.TemporaryDirectory() as store:
        arguments = (ranks, f"{store}/ranks", device, jobs, folder, sabotage, queue)
        processes = torch.multiprocessing.start_processes(
            worker, args=arguments, nprocs=ranks, join=False, start_method=method
        )
        ended = False
        while not ended:
            ended = processes.join(timeout=0.2)
            while not queue.empty():
                yield Row(*queue.get())


def worker(
    rank: int,
    ranks: int,
    store: str,
    device: str,
    jobs: tuple[list[Cell], list[Move], list[Move]],
    folder: Path,
    sabotage: str | None,
    queue: Any,
) -> None:
    """One rank: all its cells in a row, then the saves and the resumes of moves."""
    import gc

    # DeepSpeed's notes belong with the progress, not into the table.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", DS_ACCELERATOR=device)
    torch.set_num_threads(1)
    if device == "cuda":
        torch.cuda.set_device(rank)
        # A resumed run can have every bit of another only where a kernel has every bit of itself.
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        torch.use_deterministic_algorithms(True, warn_only=True)
    backend = "nccl" if device == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=ranks)
    import deepspeed  # noqa: F401 - loaded by now, it does not count for the first cell's seconds
    from exactness_run import check_cell, check_move, save_half

    leave_at_exit()
    # Stage 3 collects garbage as it starts, which takes long over everything that was imported.
    gc.collect()
    gc.freeze()
    cells, saved, resumed = jobs
    for index, cell in enumerate(cells):
        started = time.perf_counter()
        found = check_cell(cell, folder / f"cell_{ranks}_{index}", sabotage=sabotage)
        if rank == 0:
            queue.put((cell, found, time.perf_counter() - started))
    for move in saved:
        save_half(move, _folder(folder, move))
    for move in resumed:
        started = time.perf_counter()
        found = check_move(move, _folder(folder, move))
        if rank == 0:
            queue.put((move, found, time.perf_counter() - started))


def _folder(folder: Path, move: Move) -> Path:
    return folder / "_".join(move.labels().values())


def show_progress(rows: Sequence[Row], total: int, started: float) -> None:
    """The latest row and the time left, on stderr."""
    left_s = (time.perf_counter() - started) / len(rows) * (total - len(rows))
    told = ", ".join(f"{key} {value}" for key, value in rows[-1].what.labels().items())
    verdict = "; ".join(rows[-1].wrong()) or "pass"
    left = f"{left_s / 60:.1f} min left"
    print(f"{len(rows)}/{total} {told}: {verdict} ({rows[-1].seconds:.1f} s; {left})", file=sys.stderr, flush=True)


def summary(rows: Sequence[Row]) -> str:
    """The largest differences by stage and precision, as Markdown."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        labels = row.what.labels()
        groups[labels["stage"], labels["precision"]].append(row)
    lines = [
        "| stage | precision | passed | largest difference of a weight | "
        + " | ".join(HEADINGS[key] for key in ERRORS)
        + " | mean seconds |",
        "|---" * 8 + "|",
    ]
    for (stage, precision), group in groups.items():
        worst = [max(row.found[key] for row in group) for key in ("largest_difference", *ERRORS)]
        passed = sum(not row.wrong() for row in group)
        seconds = statistics.mean(row.seconds for row in group)
        told = " | ".join(f"{value:.2g}" for value in worst)
        lines.append(f"| {stage} | {precision} | {passed}/{len(group)} | {told} | {seconds:.1f} |")
    return "\n".join(lines)


def table(rows: Sequence[Row]) -> str:
    """A line a row, as Markdown."""
    heads = [*COLUMNS, *(HEADINGS[key] for key in (*COUNTS, *ERRORS)), "seconds", "result"]
    return "\n".join(["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|", *(row.line() for row in rows)])


def report(rows: Sequence[Row], planned: Mapping[type, int]) -> bool:
    """Print tables and verdict; whether all that was planned passed."""
    verdicts, wrong = [], []
    for kind, title, verdict in (
        (Cell, "Cells", "{}"),
        (Move, "Resumed at another stage or world size", "resumed elsewhere {}"),
    ):
        mine = [row for row in rows if isinstance(row.what, kind)]
        if mine:
            print(f"\n## {title}\n\n{table(mine)}\n\n{summary(mine)}")
        if planned[kind]:
            verdicts.append(verdict.format(f"{sum(not row.wrong() for row in mine)}/{planned[kind]}"))
        wrong += [f"{_told(row)}: {'; '.join(row.wrong())}" for row in mine if row.wrong()]
    print("\n" + "\n".join(f"- {name}: {value}" for name, value in environment().items()))
    passed = not wrong and len(rows) == sum(planned.values())
    print("\n" + "\n".join([*wrong, f"{'PASS' if passed else 'FAIL'} {', '.join(verdicts)}"]))
    return passed


def _told(row: Row) -> str:
    return ", ".join(f"{key} {value}" for key, value in row.what.labels().items())


def chosen(options: argparse.Namespace) -> tuple[list[Cell], list[Move]]:
    """The cells and moves that the options ask for.

    Raises:
        ValueError: If a filter matches nothing.
    """
    cells = all_cells(options.device)
    moves = [] if options.sabotage or options.device == "cuda" else all_moves()
    if options.only:
        wanted = [dict(pair.split("=", 1) for pair in each.split(",") if "=" in pair) for each in options.only]
        for text, each in zip(options.only, wanted, strict=True):
            if not any(matches(what, [each]) for what in (*cells, *moves)) or len(each) < len(text.split(",")):
                example = ",".join(f"{key}={value}" for key, value in cells[-1].labels().items())
                raise ValueError(f"--only {text}: matches no cell; give some of these, with their values: {example}")
        cells = [cell for cell in cells if matches(cell, wanted)]
        moves = [move for move in moves if matches(move, wanted)]
    if options.cells:
        # An odd stride meets every stage and tuner.
        cells, moves = [cells[index * len(cells) // options.cells] for index in range(options.cells)], []
    return cells, moves


def write(rows: Sequence[Row], out: Path | None) -> None:
    """What was found so far, as JSON."""
    if out is not None:
        found = [row.what.labels() | {**row.found, "seconds": row.seconds, "wrong": row.wrong()} for row in rows]
        out.write_text(json.dumps(found, indent=1), encoding="utf-8")


def main() -> int:
    """Print the tables; 1 if anything is off."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--only", action="append", help="key=value,… that a cell has to have; may be repeated")
    parser.add_argument("--cells", type=int, help="run this many cells, spread over all, and no resumes elsewhere")
    parser.add_argument(
        "--sabotage",
        nargs="?",
        const="hooks",
        choices=("hooks", "scale", "micro-batch", "clipping"),
        help="what to break, if nothing else is said the hooks that freeze; this must fail",
    )
    parser.add_argument("--out", type=Path, help="write what was found as JSON, too, row by row")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU here")
    try:
        cells, moves = chosen(options)
    except ValueError as error:
        parser.error(str(error))
    rows: list[Row] = []
    started = time.perf_counter()
    print("# Exactness of freezing, training and resuming")
    write(rows, options.out)
    try:
        for row in run_all(cells, moves, options.device, options.sabotage):
            rows.append(row)
            write(rows, options.out)
            show_progress(rows, len(cells) + len(moves), started)
    except torch.multiprocessing.ProcessRaisedException as error:
        print(f"\na rank failed after {len(rows)} rows:\n{error}")
    passed = report(rows, {Cell: len(cells), Move: len(moves)})
    print(f"\n{(time.perf_counter() - started) / 60:.1f} minutes", file=sys.stderr)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
