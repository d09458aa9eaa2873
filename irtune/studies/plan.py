"""The plan of a study: what it will do and take, said before anything runs, kept, and put beside what it took."""

import contextlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from irtune.analysis.tables import MISSING, duration, operations
from irtune.config.engine_schema import EngineConfig
from irtune.config.schema import ExperimentConfig
from irtune.config.study_schema import StudyConfig
from irtune.files import read_json, write_json
from irtune.redaction import public_address, redacted
from irtune.search.source import BASELINE_TRIAL
from irtune.studies.forecast import SweepCost, Trial
from irtune.studies.preflight import Study
from irtune.studies.trial_record import TrialRecord
from irtune.tracking.run_record import RunRecord
from irtune.training.cost import CostModel
from irtune.training.memory import estimate
from irtune.training.model import shapes_only
from irtune.training.prefix_reuse import reuse_of
from irtune.training.rehearsal import Pace, Rehearsal, RehearsalError
from irtune.training.shared_prefix import sharing_of

PLAN = "plan.json"
MEASURED = "measured steps of the real model on this machine"
QUANTITIES: dict[str, tuple[str, Callable[[float], str]]] = {
    "step_s": ("optimizer step of the baseline", "{:.3g}s".format),
    "baseline_s": ("the baseline", duration),
    "trial_s": ("another trial, if not stopped", duration),
    "trial_flops": ("training FLOPs of such a trial", operations),
    "memory_bytes": ("memory of a worker", lambda size: f"{size / 2**30:.2g} GiB"),
    "stopped": ("trials stopped early", "{:.2g}".format),
    "trials_s": ("all trials together", duration),
    "sweep_s": ("the study, first trial to last", duration),
    "run_step_s": ("optimizer step", "{:.3g}s".format),
    "run_flops": ("training FLOPs", operations),
    "run_s": ("the run", duration),
}
"""Quantities that are predicted and looked at afterwards: a name for people, and the wording of numbers."""

Row = tuple[str, ...]
"""A quantity's name, predicted, actual, and how many times the prediction the actual is."""


@dataclass(frozen=True)
class Plan:
    """The work of a sweep, and its cost.

    Args:
        facts: In words, by what they are about.
        predicted: Numbers, by what ``QUANTITIES`` calls them; what is not known is left out.
        source: Where the numbers come from.
    """

    facts: dict[str, str]
    predicted: dict[str, float]
    source: str

    @classmethod
    def of(
        cls,
        study: Study[StudyConfig],
        predicted: Mapping[str, float],
        source: str,
        *,
        work: Mapping[str, str],
        takes: Mapping[str, str],
    ) -> "Plan":
        """With where results will lie, without secrets, and without what is not known (NaN).

        Args:
            study: What was found out about it.
            predicted: By what ``QUANTITIES`` calls it.
            source: Where the numbers come from.
            work: In words, what there is to do.
            takes: In words, what that takes.
        """
        inputs, tracking, uri = study.ready.inputs, study.config.tracking, public_address(study.ready.tracking_uri)
        facts = {
            **inputs.facts(),
            "reads": inputs.shown(),
            **work,
            "workers": _workers_in_words(study.config),
            "estimated": f"from {source}",
            "memory": f"{predicted['memory_bytes'] / 2**30:.2g} GiB per worker",
            **takes,
            "results": f"{study.folder}: trials with their checkpoints, predictions and adapters "
            f"({tracking.keep_adapters} kept, {tracking.upload_adapters} uploaded), tokens, tables, report",
            "MLflow": f"{uri}, experiment {tracking.experiment}",
        }
        known = {name: value for name, value in predicted.items() if not math.isnan(value)}
        return cls(redacted(facts), known, source)

    def show(self, console: Console) -> None:
        """Print it."""
        for name, fact in self.facts.items():
            console.out(f"{name:10} {fact}", highlight=False)


def predict(folder: Path, make: Callable[[], Plan], console: Console) -> None:
    """Keep a plan in a study's folder, for its end to be compared with, and say how long the study will take.

    One that goes on keeps the plan it began with. No study fails for want of a plan: what goes wrong is logged.
    """
    if (folder / PLAN).is_file():
        return
    try:
        plan = make()
        write_json(folder / PLAN, plan)
    except Exception as error:
        logging.getLogger(__name__).warning("there is no prediction: %s", error, exc_info=True)
        return
    text = f"{plan.facts['in all']} (from {plan.source})"
    console.out(f"{'time':8} {text}", highlight=False)


def tried(
    study: Study[StudyConfig], rehearsal: Rehearsal, longest: int, drawn: Sequence[ExperimentConfig]
) -> tuple[Pace | None, CostModel, float, str]:
    """The pace if it could be measured, the cost of a step, the memory of a worker, and where they come from."""
    config, num_common = study.config, study.ready.inputs.num_common
    batch = max(one.training.micro_batch_size for one in drawn)
    try:
        pace = rehearsal.pace()
    except RehearsalError as error:
        model = shapes_only(study.ready.inputs.checkpoint, config.adapter, config.model.attention)
        sharing = sharing_of(model, config.engine.share_prefix, num_common, longest)
        cost = CostModel.of(model, recompute=config.model.gradient_checkpointing, sharing=sharing)
        cost = replace(cost, reuse=reuse_of(model, config.engine))
        memory_bytes = estimate(study.ready.inputs.checkpoint, config, batch, longest).peak
        return None, cost, memory_bytes, f"a closed form: {str(error).splitlines()[0]}"
    # The rows that it looked at may have more tokens in common than all have.
    cost = replace(pace.cost, sharing=pace.cost.sharing.at_most(num_common))
    return pace, cost, pace.memory_bytes(batch * longest), MEASURED


def with_starts(
    config: StudyConfig, baseline: Trial, others: Trial, num_others: int, pace: Pace | None, at_once: int
) -> tuple[Trial, Trial]:
    """The baseline, and the others on average, with their share of the processes that start for them."""
    if pace is None:
        return baseline, others
    starts = max(at_once, math.ceil((1 + num_others) / config.tune.trials_per_process(config.engine)))
    # Of the processes that start, one does for the baseline.
    of_others = (starts - 1) / max(num_others, 1) * pace.process_s
    return (
        replace(baseline, load_s=baseline.load_s + pace.process_s),
        replace(others, load_s=others.load_s + of_others),
    )


def predictions(
    baseline: Trial, others: Trial, cost: SweepCost, memory_bytes: float, stopped: float = math.nan
) -> dict[str, float]:
    """Return predictions by the names in ``QUANTITIES``."""
    return {
        "step_s": baseline.step_s,
        "baseline_s": baseline.seconds,
        "trial_s": others.seconds,
        "trial_flops": others.step_flops * others.num_steps,
        "memory_bytes": memory_bytes,
        "stopped": stopped,
        "trials_s": cost.trials_s,
        "sweep_s": cost.wall_s,
    }


def _workers_in_words(config: StudyConfig) -> str:
    """The number of workers of a trial, and what each reserves."""
    engine = config.engine
    gpus = f" and {engine.gpus_per_worker:g} GPUs" if engine.gpus_per_worker else ""
    each = f"{engine.cpus_per_worker:g} CPUs{gpus}"
    return f"{engine.num_workers} per trial ({config.tune.execution_of(engine)}), each with {each}"


def in_words(cost: SweepCost, engine: EngineConfig) -> str:
    """Time, core-hours and FLOPs of all trials."""
    flops = f"{operations(cost.flops)} FLOPs of training"
    if math.isnan(cost.trials_s):
        return flops
    hours = cost.trials_s * engine.num_workers / 3600
    gpus = f", {hours * engine.gpus_per_worker:.2g} GPU-hours" if engine.gpus_per_worker else ""
    return f"{duration(cost.wall_s)}, {hours * engine.cpus_per_worker:.2g} core-hours{gpus}, {flops}"


def actual(entries: Sequence[TrialRecord]) -> dict[str, float]:
    """Return what a sweep took, by the names in ``QUANTITIES``; what cannot be told is left out.

    Time in which an interrupted sweep did not run is part of what it took, and of what the trials took that were in
    flight.
    """
    # The trials of an ablation all repeat a cell; those of a sweep that repeat another are finalists.
    predicted = [entry for entry in entries if entry.spec.repeats is None or entry.spec.group]
    finished = [entry for entry in predicted if entry.status == "finished"]
    baseline = [one for one in finished if one.spec.name == BASELINE_TRIAL or one.spec.group.get("baseline") == "true"]
    others = [entry for entry in finished if not entry.spec.is_baseline and entry not in baseline]
    spans = _spans_s(entries)
    found: dict[str, list[float]] = {
        "step_s": [entry.latest["cost/train_s"] / entry.step for entry in baseline],
        "baseline_s": [end - start for start, end in _spans_s(baseline)],
        "trial_s": [end - start for start, end in _spans_s(others)],
        "trial_flops": [entry.latest["cost/total_flops"] for entry in others],
        "memory_bytes": [max(entry.latest["cost/peak_memory_bytes"] for entry in finished)] if finished else [],
        "stopped": [sum(entry.status == "pruned" for entry in entries)],
        "trials_s": [sum(end - start for start, end in spans)],
        "sweep_s": [max(end for _, end in spans) - min(start for start, _ in spans)] if spans else [],
    }
    return {name: float(mean(values)) for name, values in found.items() if values}


def actual_of_run(run: TrialRecord) -> dict[str, float]:
    """What a single run took, as ``actual`` says it of several."""
    if run.status != "finished":
        return {}
    return {
        "run_step_s": run.latest["cost/train_s"] / run.step,
        "run_flops": run.latest["cost/total_flops"],
        "memory_bytes": run.latest["cost/peak_memory_bytes"],
        "run_s": sum(end - start for start, end in _spans_s([run])),
    }


def _spans_s(entries: Sequence[TrialRecord]) -> list[tuple[float, float]]:
    """The beginning and end of trials, in seconds since 1970, as the driver noted it."""
    spans = []
    for record in (RunRecord(entry.folder) for entry in entries):
        # A record that could not be written must not cost the sweep its summary.
        with contextlib.suppress(ValueError, OSError):
            end = record.end()
            if end is not None:
                spans.append((record.start().start_time_ms / 1000, end.end_time_ms / 1000))
    return spans


Compared = tuple[list[Row], str, dict[str, float]]
"""Predicted and actual in words, where the prediction comes from, and both as metrics."""


def compared_with_plan(folder: Path, found: Mapping[str, float]) -> Compared:
    """Compare predictions with what was ``found``; a study without a plan that can be read has nothing to compare."""
    try:
        plan = read_json(folder / PLAN, Plan)
    except (OSError, ValueError) as error:
        logging.getLogger(__name__).warning("nothing was predicted: %s", error)
        return [], "", {}
    rows = side_by_side(plan, found)
    metrics = {f"predicted/{name}": value for name, value in plan.predicted.items()}
    return rows, plan.source, metrics | {f"actual/{name}": value for name, value in found.items()}


def side_by_side(plan: Plan, found: Mapping[str, float]) -> list[Row]:
    """Word predictions and what was found."""
    rows = []
    for name, (label, wording) in QUANTITIES.items():
        predicted, took = plan.predicted.get(name), found.get(name)
        if predicted is None and took is None:
            continue
        ratio = f"{took / predicted:.2f}" if took and predicted else MISSING
        rows.append((label, *(MISSING if value is None else wording(value) for value in (predicted, took)), ratio))
    return rows


def show_compared(compared: Compared, console: Console) -> None:
    """Print what was predicted beside what happened, if anything was, with where the prediction came from."""
    rows, source, _ = compared
    if rows:
        shown = Table("", box=SIMPLE_HEAD, title="Predicted and actual", title_justify="left", caption=f"from {source}")
        for heading in ("predicted", "actual", "actual / predicted"):
            shown.add_column(heading, justify="right")
        for row in rows:
            shown.add_row(*row)
        console.print()
        console.print(shown)
    console.print()
