"""The control of a recommendation: its blocks trained statically, beside what chose them and beside uniform LoRA.

Without it nobody knows whether it mattered that blocks were chosen anew, or which ones. It is an ablation of three
cells on seeds that had no part in the study.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from irtune.analysis.ablation.findings import AblationFindings
from irtune.config.ablation_schema import AblationConfig
from irtune.config.load import apply_overrides, build, explicit
from irtune.config.schema import AdapterConfig, ExperimentConfig
from irtune.config.tree import put
from irtune.files import once_there_is_room, write_whole
from irtune.redaction import BLOT, redacted
from irtune.results.recommend import Recommendation
from irtune.search.ablation_cells import WITHOUT_DOTS
from irtune.studies.recorded import StudyError, find_study
from irtune.studies.resume import Resume

DYNAMIC, STATIC, UNIFORM = "dynamic", "static", "uniform"
FILE, RESULT = "control.yaml", "control.json"
SEED_AFTER = 2_000_000
"""A number that is added to the study's seed: far from the seeds that it compared, and that it tuned with."""

CLAIMS = ((DYNAMIC, STATIC), (STATIC, UNIFORM))
"""Claims that are judged: that it matters whether blocks are chosen anew, and which blocks they are."""

_SCHEMA_VERSION = 1
_FEWEST_SEEDS = 2
_LABELS = "training.class_weights."


def control_of(
    folder: Path, recommended: Recommendation, num_seeds: int, overrides: Mapping[str, Any]
) -> AblationConfig:
    """The study that tells whether a recommendation is worth following, at the settings of the trial that it is from.

    - ``dynamic``: the configuration that the recommendation was learnt from.
    - ``static``: the recommended blocks, from beginning to end.
    - ``uniform``: all blocks, at the rank that trains as many parameters as ``static``, rounded; blocks are taken to be
      of one size.

    Args:
        folder: Of the study that the recommendation is from; the control lies beside it.
        recommended: The blocks, and the trial that they were learnt from.
        num_seeds: That every cell is trained with.
        overrides: Settings by dotted key that replace those of the trial.

    Raises:
        StudyError: If there are too few seeds, or the trial's record does not give a setting away.
        ConfigError: If settings don't fit.
    """
    if num_seeds < _FEWEST_SEEDS:
        raise StudyError(
            f"--control {num_seeds}: needs {_FEWEST_SEEDS} seeds at least; from 6 on a difference can show"
        )
    tree = _experiment(recommended, overrides)
    adapter = build(ExperimentConfig, tree, FILE).adapter
    slug = WITHOUT_DOTS.sub("_", recommended.trial.configuration).strip("_")
    tree |= {
        "name": f"{folder.resolve().name}-control-{slug}",
        "storage": str(folder.resolve().parent),
        "seed": recommended.seed + SEED_AFTER,
    }
    rank, alpha = uniform_rank(adapter, len(recommended.advice.layers), recommended.card.num_blocks)
    cells: dict[str, dict[str, Any]] = {
        STATIC: {
            "method": None,
            "selection.policy.name": "static",
            "selection.policy.blocks": list(recommended.advice.layers),
            "selection.reselect_every": 0,
            "selection.measure": "when_needed",
        },
        DYNAMIC: {},
        UNIFORM: {
            "method": None,
            "selection.policy.name": "all",
            "selection.measure": "when_needed",
            "adapter.r": rank,
            "adapter.alpha": alpha,
        },
    }
    claims = [{"better": better, "than": than} for better, than in CLAIMS]
    tree["ablation"] = {"cells": cells, "baseline": STATIC, "seeds": num_seeds, "claims": claims}
    return build(AblationConfig, tree, FILE)


def uniform_rank(adapter: AdapterConfig, num_layers: int, num_blocks: int) -> tuple[int, float]:
    """The rank of all blocks that trains about as many parameters as some blocks do, and the alpha that scales alike.

    Args:
        adapter: Of these blocks.
        num_layers: How many they are.
        num_blocks: L.

    Example:
        >>> uniform_rank(AdapterConfig(r=32, alpha=64), 10, 30)
        (11, 22.0)
    """
    rank = max(1, round(adapter.r * num_layers / num_blocks))
    # PEFT scales by alpha over r, and with use_rslora by alpha over its root.
    power = 0.5 if adapter.options.get("use_rslora") else 1.0
    return rank, round(adapter.alpha * (rank / adapter.r) ** power, 6)


def run_control(
    folder: Path,
    out: Path,
    recommended: Recommendation,
    num_seeds: int,
    overrides: Mapping[str, Any],
    *,
    resume: Resume,
    plan: bool,
    console: Console,
) -> bool:
    """Train the control, and write what came of it beside the recommendation; returns whether every cell finished.

    Args:
        folder: Of the study.
        out: Of the recommendation.
        recommended: What is checked.
        num_seeds: As in ``control_of``.
        overrides: As in ``control_of``.
        resume: Whether to go on with an earlier control of this configuration.
        plan: Say only what would be done.
        console: Where progress is shown.

    Raises:
        ValueError: As ``control_of``, and as an ablation does.
    """
    from irtune.training.rehearsal import Rehearsal

    config = control_of(folder, recommended, num_seeds, overrides)
    source = str(out / FILE)
    # It imports what training needs while this process imports what a study needs.
    with Rehearsal(config.experiment()) as rehearsal:
        from irtune.studies.ablation import AblationRunner

        runner, study = AblationRunner(), (config, source, console, resume, rehearsal)
        if plan:
            runner.plan(*study).show(console)
            return True
        text = yaml.safe_dump(redacted(explicit(config)), sort_keys=False)
        once_there_is_room(lambda: write_whole(out / FILE, text), out)
        found = runner.run(*study)
    study_name = find_study(config.name, folder.resolve().parent).name
    result = result_of_control(config, recommended, study_name, found)
    once_there_is_room(lambda: write_whole(out / RESULT, json.dumps(result, indent=1, allow_nan=False) + "\n"), out)
    recommended.with_notes(*(claim.sentence for claim in found.claims)).write(out)
    console.print(f"wrote {out / RESULT}", highlight=False, soft_wrap=True, markup=False)
    return runner.succeeded(found)


def result_of_control(
    config: AblationConfig, recommended: Recommendation, study: str, found: AblationFindings
) -> dict[str, Any]:
    """The document ``control.json``; what is not known is null.

    Args:
        config: Of the control.
        recommended: What was checked.
        study: Folder name of the control, whose ``report.html`` has the rest.
        found: What came of it.
    """
    # A rank is a whole number.
    of_uniform = config.ablation.cells[UNIFORM]["adapter.r"] * recommended.card.num_blocks
    return {
        "schema_version": _SCHEMA_VERSION,
        "study": study,
        "configuration": recommended.trial.configuration,
        "layers": list(recommended.advice.layers),
        "metric": found.claims[0].metric,
        "uniform_to_static_parameters": round(of_uniform / (config.adapter.r * len(recommended.advice.layers)), 4),
        "cells": {
            one.cell.name: {"seeds": [row.seed for row in one.rows]} | _interval("", one.test or (None,) * 3)
            for one in found.results
        },
        "comparisons": [
            {
                "first": claim.claimed.better,
                "second": claim.claimed.than,
                "seeds": list(claim.seeds),
                "verdict": claim.comparison.verdict if claim.comparison else None,
                "p": claim.comparison.adjusted_p if claim.comparison else None,
                **_interval("difference_", claim.comparison.difference if claim.comparison else (None,) * 3),
                "examples_low": claim.interval.low if claim.interval else None,
                "examples_high": claim.interval.high if claim.interval else None,
                "sentence": claim.sentence,
            }
            for claim in found.claims
        ],
        "caveats": list(found.caveats),
    }


def _interval(prefix: str, values: Iterable[float | None]) -> dict[str, float | None]:
    known = (value if value is not None and math.isfinite(value) else None for value in values)
    return {f"{prefix}{name}": value for name, value in zip(("mean", "low", "high"), known, strict=True)}


def _experiment(recommended: Recommendation, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the trial as a tree, with what replaces them."""
    trial, tree = recommended.trial, dict[str, Any]()
    settings = {
        key: value for key, value in trial.settings.items() if key.partition(".")[0] in ExperimentConfig.model_fields
    }
    hidden = [key for key, value in settings.items() if BLOT in str(value) and key not in overrides]
    if hidden:
        raise StudyError(
            f"{trial.folder}: its record does not give away {', '.join(hidden)}; say them on the command line, as "
            f"{hidden[0]}=…"
        )
    for key, value in settings.items():
        # A label may have dots.
        put(tree, key.split(".", 2) if key.startswith(_LABELS) else key.split("."), value)
    return apply_overrides(tree, overrides)
