"""Recommendations of a study to people without irtune: PEFT settings and a layer card, read from its records."""

import json
import logging
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from irtune.analysis.ablation.stability import Choices
from irtune.analysis.layer_card import BlockCosts, LayerCard, Origin, card_of, card_plot, spreads
from irtune.analysis.recommendation import Advice, LoraAdapter, advise, as_python, as_yaml
from irtune.config.schema import AdapterConfig, ModelConfig
from irtune.config.study_schema import Aim
from irtune.files import appearing, once_there_is_room, write_whole
from irtune.redaction import redact, redacted
from irtune.studies.recorded import (
    StudyError,
    aim_of,
    best_configuration,
    find_study,
    finished_trials,
    scores_of,
    section,
)
from irtune.studies.resume import read_identity
from irtune.studies.trial_record import TrialRecord

YAML, PYTHON, CARD, PICTURE = "recommendation.yaml", "recommendation.py", "layer_card.json", "layer_card.png"
LORA = ("lora", "dora")
"""Adapters with a rank per block."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recommendation:
    """Settings for training without irtune, and their reasons.

    Args:
        advice: PEFT settings.
        card: What was learnt of the blocks.
        about: The study and its configuration, in a line.
        trial: The first that it was learnt from.
        seed: Of the study.
    """

    advice: Advice
    card: LayerCard
    about: str
    trial: TrialRecord
    seed: int

    def with_notes(self, *notes: str) -> "Recommendation":
        """The same with more to know about it, in sentences."""
        return replace(self, advice=replace(self.advice, notes=(*self.advice.notes, *notes)))

    def python(self) -> str:
        """The settings as a module."""
        return as_python(self.advice, self.about)

    def yaml(self) -> str:
        """The settings as YAML."""
        return as_yaml(self.advice, self.about)

    def write(self, folder: Path) -> list[Path]:
        """Write all four files, in place of those of an earlier recommendation; returns their paths."""
        files = [folder / name for name in (YAML, PYTHON, CARD, PICTURE)]
        card = json.dumps(asdict(self.card), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

        def write() -> None:
            for file, text in zip(files, (self.yaml(), self.python(), card), strict=False):
                write_whole(file, text)
            with appearing(files[-1]) as partial:
                card_plot(self.card).savefig(partial, format="png", dpi=120)

        once_there_is_room(write, folder)
        return files


def recommend(name: str, storage: Path, trial: str | None = None) -> tuple[Path, Recommendation]:
    """The study's folder, and what follows from its best configuration that selects blocks, over all of its seeds.

    Args:
        name: The study's folder, or its name under ``storage``.
        storage: Where studies lie.
        trial: A trial, or a cell, to go by instead of the best one.

    Raises:
        ValueError: If there is no such study, nothing in it that selects blocks has finished, or its adapter is not
            LoRA.
    """
    folder = find_study(name, storage)
    identity = read_identity(folder)
    aim = aim_of(identity.settings)
    trials, num_others = finished_trials(folder)
    configuration, chosen = _chosen(folder, trials, num_others, aim, trial)
    adapter_config = _lora(chosen[0], folder)
    choices = _choices(chosen, folder)
    shape = _Shape.of(chosen[0])
    blocks = chosen[0].tags.get("irtune.blocks.name", "")
    if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", blocks) is None:
        raise StudyError(f"{chosen[0].folder}: its record names no list of blocks (irtune.blocks.name)")
    if shape.has_stacks:
        raise StudyError(
            f"{folder}: adapter.target_modules of {configuration} reaches experts kept as one stack, and PEFT puts "
            "those of every block under an adapter whatever layers_to_transform says; go by a trial whose "
            "target_modules name linear layers only, such as q_proj, k_proj, v_proj"
        )
    trains_head = chosen[0].settings.get("model.train_head") is not False
    adapter = LoraAdapter(_settings(adapter_config), blocks, shape.head, trains_head)
    advice = advise(choices, adapter)
    costs = shape.costs if shape.costs is not None and len(shape.costs.forward) == len(choices[0].frequency) else None
    command = ["irtune", "recommend", name, "--storage", str(storage), *(["--trial", trial] if trial else [])]
    seeds = tuple(one.seed for one in choices)
    origin = _origin(folder, chosen, seeds, adapter_config, aim, redact(shlex.join(command)))
    card = card_of(choices, advice, origin, blocks, costs, _by_signal(trials, chosen[0], len(choices[0].frequency)))
    about = (
        f"From {origin.study}: {configuration} ({origin.strategy}), seeds {', '.join(map(str, seeds))} of "
        f"{origin.steps} steps each; {origin.model} on {origin.corpus}, data {origin.data_fingerprint}."
    )
    return folder, Recommendation(advice, card, about, chosen[0], int(identity.settings.get("seed") or 0))


def _chosen(
    folder: Path, trials: Sequence[TrialRecord], num_others: int, aim: Aim, name: str | None
) -> tuple[str, list[TrialRecord]]:
    """The configuration to go by, and its trials in the order of seeds."""
    groups: dict[str, list[TrialRecord]] = {}
    for trial in sorted(trials, key=lambda trial: trial.seed):
        groups.setdefault(trial.configuration, []).append(trial)
    selective = {one: group for one, group in groups.items() if not all(trial.is_baseline for trial in group)}
    if not selective:
        finished = f"{len(trials)} trials have finished, all of which train every block" if trials else "none has"
        raise StudyError(
            f"{folder}: no trial that selects blocks has finished ({finished}; {num_others} others have not); let the "
            "study go on with --resume, or give it a method or a policy other than all"
        )
    if name is not None:
        of_trial = {trial.name: trial.configuration for trial in trials}
        found = name if name in groups else of_trial.get(name)
        if found is None:
            raise StudyError(f"--trial {name}: no finished trial or cell; available: {', '.join(selective)}")
        if found not in selective:
            raise StudyError(f"--trial {name}: trains every block; name one of {', '.join(selective)}")
        return found, selective[found]
    corpora = sorted({trial.tags.get("irtune.corpus", "") for group in selective.values() for trial in group})
    if len(corpora) > 1:
        raise StudyError(
            f"{folder}: its cells are of {len(corpora)} corpora ({', '.join(corpora)}), whose scores cannot be "
            f"compared; say with --trial which to go by: {', '.join(selective)}"
        )
    best = best_configuration(folder, selective, aim)
    return best, selective[best]


def _choices(trials: Sequence[TrialRecord], folder: Path) -> list[Choices]:
    """Choices of the trials, one of each seed; those whose trace cannot be read are warned of."""
    found: dict[int, Choices] = {}
    for trial in trials:
        try:
            one = trial.choices()
        except ValueError as error:
            logger.warning("%s; it is passed over", error)
            continue
        found.setdefault(one.seed, one)
    sizes = sorted({len(one.frequency) for one in found.values()})
    if len(sizes) != 1:
        reason = f"its trials have {' and '.join(map(str, sizes))} blocks" if sizes else "no trace of it can be read"
        raise StudyError(f"{folder}: {trials[0].configuration}: {reason}; say with --trial which other one to go by")
    return list(found.values())


def _by_signal(trials: Sequence[TrialRecord], chosen: TrialRecord, num_blocks: int) -> dict[str, list[Choices]]:
    """What other signals measured of the same blocks on the same data: of each signal the first configuration.

    Whatever a trial's policy made of them, importance is of a block.
    """
    found: dict[tuple[str, str], list[Choices]] = {}
    for trial in sorted(trials, key=lambda trial: (trial.configuration, trial.seed)):
        signal = str(trial.settings.get("importance.name"))
        if signal == chosen.settings.get("importance.name") or any(
            trial.tags.get(tag) != chosen.tags.get(tag) for tag in ("irtune.corpus", "irtune.data.fingerprint")
        ):
            continue
        try:
            one = trial.choices()
        except ValueError:
            continue
        alike = trial.settings["model.name"] == chosen.settings["model.name"] and len(one.importance) == num_blocks
        if alike and not np.isnan(one.importance).all():
            found.setdefault((signal, trial.configuration), []).append(one)
    # The first configuration of a signal stands, since another may aggregate in another unit.
    return {signal: found[signal, name] for signal, name in reversed(found)}


def _lora(trial: TrialRecord, folder: Path) -> AdapterConfig:
    """The adapter of a trial, if it is LoRA."""
    try:
        adapter = AdapterConfig.model_validate(section(trial.settings, "adapter"))
    except ValidationError as error:
        first = error.errors()[0]
        raise StudyError(
            f"{trial.folder}: its record says adapter.{'.'.join(map(str, first['loc']))} wrongly: {first['msg']}"
        ) from error
    if adapter.type not in LORA:
        raise StudyError(
            f"{folder}: adapter.type of {trial.configuration} is {adapter.type}, and layers_to_transform and "
            "rank_pattern are LoRA's; say with --trial which trial with lora or dora to go by, or run the study with "
            "adapter.type=lora"
        )
    return adapter


def _settings(adapter: AdapterConfig) -> dict[str, Any]:
    """Arguments of ``LoraConfig``."""
    targets = adapter.target_modules
    settings = {
        "r": adapter.r,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "target_modules": targets if isinstance(targets, str) else list(targets),
    }
    return settings | ({"use_dora": True} if adapter.type == "dora" else {}) | adapter.options


@dataclass(frozen=True)
class _Shape:
    """Facts that only the model itself tells.

    Args:
        head: Names of what trains beside its body.
        costs: Of its blocks; None if it is not on this machine.
        has_stacks: Whether adapters sit on experts that are kept as one stack.
    """

    head: tuple[str, ...] = ()
    costs: BlockCosts | None = None
    has_stacks: bool = False

    @classmethod
    def of(cls, trial: TrialRecord) -> "_Shape":
        """Look at the model without its weights, if it is here."""
        from irtune.training.cost import CostModel
        from irtune.training.model import shapes_only
        from irtune.training.pretrained import find_local

        try:
            config = ModelConfig.model_validate(section(trial.settings, "model"))
            checkpoint = find_local(config)
            if checkpoint is None:
                return cls()
            model = shapes_only(checkpoint, AdapterConfig.model_validate(section(trial.settings, "adapter")))
        # Whatever the checkpoint is by now, the study's records stand.
        except Exception as error:
            logger.warning("%s: %s; costs are left out", trial.settings["model.name"], error)
            return cls()
        cost = CostModel.of(model, recompute=config.gradient_checkpointing)
        step = cost.per_block(0.0)
        blocks = range(len(cost.forward))
        train = np.array([step.of([block]) for block in blocks]) / step.of(blocks)
        # PEFT names heads of other models too.
        beside = {key for key, _ in model.get_base_model().named_modules()}
        peft_config = model.peft_config["default"]
        head = dict.fromkeys(key for key in peft_config.modules_to_save or () if key in beside)
        has_stacks = bool(peft_config.target_parameters)
        return cls(tuple(head), BlockCosts(cost.forward / cost.forward.sum(), train), has_stacks)


def _origin(
    folder: Path,
    trials: Sequence[TrialRecord],
    seeds: tuple[int, ...],
    adapter: AdapterConfig,
    aim: Aim,
    command: str,
) -> Origin:
    first, (metric, _) = trials[0], aim.first_objective
    revision = first.settings.get("model.revision")
    (score,) = spreads([np.array([one]) for one in scores_of(trials, metric) or [np.nan]])
    return Origin(
        model=redact(str(first.settings["model.name"]) + (f"@{revision}" if revision else "")),
        corpus=first.tags.get("irtune.data", "unknown"),
        data_fingerprint=first.tags.get("irtune.data.fingerprint", "unknown"),
        study=folder.resolve().name,
        configuration=first.configuration,
        strategy=first.tags.get("irtune.strategy", "unknown"),
        adapter=adapter.type,
        signal=str(redacted(first.settings.get("importance.name", "unknown"))),
        seeds=seeds,
        steps=first.max_steps or first.step,
        metric=metric,
        score=score,
        command=command,
        irtune_version=version("irtune"),
        git_commit=first.tags.get("irtune.git_commit", "unknown"),
    )
