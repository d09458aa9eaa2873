"""irtune finds out which layers of a language model are worth training.

The public names below are loaded when they are first used, so that importing irtune loads neither ray, mlflow,
deepspeed nor torch.
"""

import importlib
from typing import Any

_HOME = {
    "ExperimentConfig": "irtune.config.schema",
    "SweepConfig": "irtune.config.sweep",
    "load_config": "irtune.config.load",
    "ConfigError": "irtune.config.load",
    "SelectionPolicy": "irtune.selection",
    "SelectionContext": "irtune.selection",
    "ImportanceSignal": "irtune.importance",
    "Importance": "irtune.importance",
    "LayerController": "irtune.layers",
    "MemoryTrace": "irtune.layers",
    "IRTuningCallback": "irtune.layers.hf_callback",
    "plot_trace": "irtune.analysis.trace_plot",
    "run": "irtune.training.run",
}
_ALIASES = {"load_config": "load"}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'irtune' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), _ALIASES.get(name, name))
