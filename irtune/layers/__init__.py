"""The blocks of a model, who controls which of them train, and the record of it."""

from irtune.layers.blocks import BlockError, Blocks, map_parameters
from irtune.layers.controller import LayerController
from irtune.layers.selection_record import MemoryTrace, SelectionRecord

__all__ = ["BlockError", "Blocks", "LayerController", "MemoryTrace", "SelectionRecord", "map_parameters"]
