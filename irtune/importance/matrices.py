"""The pretrained matrices of blocks, read one at a time and in pieces, on any device and in any precision."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from irtune.importance.signal import MeasuredBlocks
from irtune.plugins import nearest

Modules = Annotated[
    str,
    Field(min_length=1, description="which pretrained matrices count: all, or a part of their names such as o_proj"),
]
"""Option of the signals that read weights."""

ELEMENTS_AT_ONCE = 2**22
"""How much of a matrix is copied to double precision at a time: 32 MiB."""


def matrices(blocks: MeasuredBlocks, block: int, modules: str) -> Iterator[Any]:
    """The pretrained matrices ``(out, in)`` of a block that count, each valid until the next is asked for.

    Args:
        blocks: Whoever has them.
        block: Index of the block.
        modules: ``all``, or one or more neighbouring components of dotted names, as ``o_proj`` or ``mlp.up_proj``.

    Raises:
        ValueError: If the block has none.
    """
    parts: set[str] = set()
    found = False
    # To the end in any case: where a matrix is gathered from several ranks, all of them have to take part.
    for name, matrix in blocks.weight_matrices(block):
        parts |= {name, *name.split(".")}
        if modules == "all" or f".{modules}." in f".{name}.":
            found = True
            yield matrix.detach()
    if not found:
        raise ValueError(
            f"importance.modules: no matrix of block {block} is called {modules!r}: {nearest(modules, {'all', *parts})}"
        )


def pieces(matrix: Any) -> Iterator[Any]:
    """The matrix ``(out, in)``, turned so that its rows are the longer side, a few columns at a time in double
    precision: no second copy of it is ever whole."""
    import torch

    if matrix.device.type == "mps":
        # It has no double precision.
        matrix = matrix.cpu()
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    for columns in wide.split(max(1, ELEMENTS_AT_ONCE // len(wide)), dim=1):
        yield columns.to(torch.float64)


def frobenius_norm(matrix: Any) -> float:
    """Root of the summed squares of a matrix."""
    return float(sum(piece.square().sum() for piece in pieces(matrix)) ** 0.5)


def singular_values(matrix: Any) -> np.ndarray:
    """All singular values of a matrix, ascending.

    They are the roots of the eigenvalues of its smaller Gram matrix, which is all that is held of it. In double
    precision those below about 1e-8 of the largest are noise, far less than half precision leaves of a weight.
    """
    import torch

    gram: Any = sum(piece @ piece.T for piece in pieces(matrix))
    values: np.ndarray = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().cpu().numpy()
    return values


def per_matrix(
    blocks: MeasuredBlocks, modules: str, measure: Callable[[Any], float]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Per block what ``measure`` finds in each matrix that counts ``(P,)``, and the matrices' numbers of elements
    ``(P,)``."""
    found: list[np.ndarray] = []
    sizes: list[np.ndarray] = []
    for block in range(len(blocks.tensor_sizes("all"))):
        pairs = np.array([(measure(matrix), matrix.numel()) for matrix in matrices(blocks, block, modules)])
        found.append(pairs[:, 0])
        sizes.append(pairs[:, 1])
    return found, sizes
