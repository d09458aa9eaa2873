"""The blocks of a model, who controls which of them train, and the record of it.

The controller is loaded when it is first used, and torch with it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from irtune.layers.blocks import BlockError, Blocks, map_parameters
from irtune.layers.selection_record import MemoryTrace, SelectionRecord

if TYPE_CHECKING:
    from irtune.layers.controller import LayerController

__all__ = ["BlockError", "Blocks", "LayerController", "MemoryTrace", "SelectionRecord", "map_parameters"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name != "LayerController":
            raise AttributeError(f"module 'irtune.layers' has no attribute {name!r}")
        return importlib.import_module("irtune.layers.controller").LayerController
