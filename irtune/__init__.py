"""irtune finds out which layers of a language model are worth training.

The public names below are loaded when they are first used, so that importing irtune loads neither ray, mlflow,
deepspeed nor torch. Type checkers and editors read the imports that never run.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from irtune.analysis.heat_map import plot_trace
    from irtune.config.ablation_schema import AblationConfig
    from irtune.config.load import ConfigError
    from irtune.config.load import load as load_config
    from irtune.config.schema import ExperimentConfig
    from irtune.config.sweep_schema import SweepConfig
    from irtune.importance import Importance, ImportanceSignal
    from irtune.layers import LayerController, MemoryTrace
    from irtune.layers.hf_callback import IRTuningCallback
    from irtune.selection import SelectionContext, SelectionPolicy
    from irtune.training.run import run

_HOME = {
    "ExperimentConfig": "irtune.config.schema",
    "SweepConfig": "irtune.config.sweep_schema",
    "AblationConfig": "irtune.config.ablation_schema",
    "load_config": "irtune.config.load",
    "ConfigError": "irtune.config.load",
    "SelectionPolicy": "irtune.selection",
    "SelectionContext": "irtune.selection",
    "ImportanceSignal": "irtune.importance",
    "Importance": "irtune.importance",
    "LayerController": "irtune.layers",
    "MemoryTrace": "irtune.layers",
    "IRTuningCallback": "irtune.layers.hf_callback",
    "plot_trace": "irtune.analysis.heat_map",
    "run": "irtune.training.run",
}
_ALIASES = {"load_config": "load"}

__all__ = [
    "AblationConfig",
    "ConfigError",
    "ExperimentConfig",
    "IRTuningCallback",
    "Importance",
    "ImportanceSignal",
    "LayerController",
    "MemoryTrace",
    "SelectionContext",
    "SelectionPolicy",
    "SweepConfig",
    "load_config",
    "plot_trace",
    "run",
]

if not TYPE_CHECKING:
    # Hidden from type checkers, for which any misspelt name would be there.
    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 'irtune' has no attribute {name!r}")
        return getattr(importlib.import_module(_HOME[name]), _ALIASES.get(name, name))
