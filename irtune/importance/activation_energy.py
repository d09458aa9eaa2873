"""Activation energy: how large what enters a block's adapted layers is."""

from typing import ClassVar, Literal

import numpy as np

from irtune.importance.signal import ImportanceSignal, MeasuredBlocks, Source


class ActivationEnergy(ImportanceSignal):
    """The mean squared norm of the vectors that enter a block's adapted layers, averaged over these layers.

    The larger it is, the less a layer's weights have to move to change its output. It sees the data, but neither labels
    nor loss.

    Source: Xu et al., Layer Card, 2026 (arXiv 2602.04019), where the activation energy of a layer is a function of the
    second moments of its activations that says how well conditioned its features are. Deviations: which function is
    left open by what we could read of it; here it is their trace, over real tokens. Layers of a block are averaged.
    Dawadikar et al., Act-LoRA (Information 17(3) 283, 2026) selects blocks by the magnitude of activations likewise.
    """

    name: Literal["activation_energy"] = "activation_energy"

    source: ClassVar[Source] = "forward"

    def measure(self, blocks: MeasuredBlocks) -> np.ndarray:
        """Energies ``(L,)`` of this forward pass.

        Raises:
            ValueError: If in a block nothing passes through an adapted layer.
        """
        found = blocks.activation_energies()
        empty = [index for index, layers in enumerate(found) if not len(layers)]
        if empty:
            raise ValueError(
                f"importance.name: {self.name} reads what enters adapted layers, and through those of blocks {empty} "
                "nothing passes; have adapter.target_modules reach a layer that is used in every block, or use "
                "importance.name: cosine_similarity"
            )
        return np.array([float(np.mean(layers)) for layers in found])
