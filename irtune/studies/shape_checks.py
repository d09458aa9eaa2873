"""Checks against a model's shapes alone: adapters that fit nothing, signals that read nothing, choices alike."""

from collections.abc import Iterator
from pathlib import Path

from irtune.config.ablation_schema import AblationConfig
from irtune.config.schema import ExperimentConfig
from irtune.config.sweep_schema import SweepConfig
from irtune.search.ablation_cells import cells_of, configurations
from irtune.search.space_checks import indistinct_choices, variations
from irtune.studies.kept_facts import blocks_of
from irtune.training.measurable import check_tensors

_DECIDES = ("method", "importance", "adapter", "selection")
"""Sections that say what is measured of what."""


def check_shapes(config: ExperimentConfig, checkpoint: Path, variations_are_sound: bool) -> None:
    """Check adapter, signal, cells and search space against the shapes of the model's parameters.

    Args:
        config: A run, a sweep or an ablation.
        checkpoint: The model's folder.
        variations_are_sound: Whether what its trials vary has passed all other checks.

    Raises:
        ValueError: With every mistake.
    """
    blocks = blocks_of(checkpoint, config.adapter)
    if blocks is None:
        return
    check_tensors(config, blocks)
    if not variations_are_sound:
        return
    mistakes = unmeasurable(config, checkpoint)
    mistakes += indistinct_choices(config, blocks.sizes) if isinstance(config, SweepConfig) else []
    if mistakes:
        raise ValueError("\n".join(mistakes))


def unmeasurable(config: ExperimentConfig, checkpoint: Path) -> list[str]:
    """Signals that a sweep or an ablation pairs with adapters in which they find nothing to measure.

    Args:
        config: Whose variations are sound otherwise.
        checkpoint: The model's folder.
    """
    found, seen = list[str](), set[tuple[str, str]]()
    for place, one in _variations(config):
        adapter = one.adapter.model_dump_json(exclude={"r", "alpha", "dropout"})
        measured = one.importance.model_dump_json(include={"name", "tensors"})
        if not one.wants_scores or one.model != config.model or (adapter, measured) in seen:
            continue
        seen.add((adapter, measured))
        try:
            blocks = blocks_of(checkpoint, one.adapter)
            if blocks is not None:
                check_tensors(one, blocks)
        except ValueError as error:
            found.append(f"{place}: {error}")
    return found


def _variations(config: ExperimentConfig) -> Iterator[tuple[str, ExperimentConfig]]:
    """The configurations of trials, each with its place in the file."""
    if isinstance(config, AblationConfig):
        arms = {cell.name: cell.arm for cell in cells_of(config)}
        yield from ((f"ablation.cells.{arms[name]}", one) for name, one in configurations(config).items())
    if isinstance(config, SweepConfig):
        keys = [key for key in config.space if key.partition(".")[0] in _DECIDES]
        for values, one in variations(config):
            said = ", ".join(f"{key}={values[key]}" for key in keys if key in values)
            yield f"space ({said})", one
