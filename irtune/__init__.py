"""irtune finds out which layers of a language model are worth training.

The public names below are loaded when they are first used, so that importing irtune loads neither ray, mlflow,
deepspeed nor torch. Type checkers and editors read the imports that never run.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from irtune.analysis.heat_map import plot_trace as plot_trace
    from irtune.analysis.trace_advice import recommend_lora as recommend_lora
    from irtune.config.ablation_schema import AblationConfig as AblationConfig
    from irtune.config.load import ConfigError as ConfigError
    from irtune.config.load import load
    from irtune.config.schema import ExperimentConfig as ExperimentConfig
    from irtune.config.sweep_schema import SweepConfig as SweepConfig
    from irtune.importance import Importance as Importance
    from irtune.importance import ImportanceSignal as ImportanceSignal
    from irtune.layers import LayerController as LayerController
    from irtune.layers import MemoryTrace as MemoryTrace
    from irtune.layers.hf_callback import IRTuningCallback as IRTuningCallback
    from irtune.selection import SelectionContext as SelectionContext
    from irtune.selection import SelectionPolicy as SelectionPolicy
    from irtune.training.run import run as run

    load_config = load
else:
    # Hidden from type checkers, for which any misspelt name would be there.
    _HOMES = {
        "AblationConfig": "irtune.config.ablation_schema",
        "ConfigError": "irtune.config.load",
        "ExperimentConfig": "irtune.config.schema",
        "IRTuningCallback": "irtune.layers.hf_callback",
        "Importance": "irtune.importance",
        "ImportanceSignal": "irtune.importance",
        "LayerController": "irtune.layers",
        "MemoryTrace": "irtune.layers",
        "SelectionContext": "irtune.selection",
        "SelectionPolicy": "irtune.selection",
        "SweepConfig": "irtune.config.sweep_schema",
        "load_config": "irtune.config.load:load",
        "plot_trace": "irtune.analysis.heat_map",
        "recommend_lora": "irtune.analysis.trace_advice",
        "run": "irtune.training.run",
    }
    __all__ = list(_HOMES)

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'irtune' has no attribute {name!r}")
        home, _, there = _HOMES[name].partition(":")
        return getattr(import_module(home), there or name)
