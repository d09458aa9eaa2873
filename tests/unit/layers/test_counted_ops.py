"""Norms of all blocks take a few operations, one message between ranks and one transfer from the device."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import classifier
from torch.utils._python_dispatch import TorchDispatchMode

from irtune.config.schema import AdapterConfig
from irtune.layers import collectives, map_parameters
from irtune.layers.blocks import low_rank_pairs
from irtune.layers.torch_blocks import TorchBlocks
from irtune.training.adapter import add_adapter

IDS = torch.arange(1, 33).reshape(4, 8)
BATCH = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "labels": torch.tensor([0, 1, 2, 0])}
ULPS = 4
"""Of fp64, by which a norm may differ from that of the tensor alone."""


class Counted(TorchDispatchMode):
    """Counts the operations that PyTorch is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[function.overloadpacket._qualified_op_name] += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture
def blocks() -> TorchBlocks:
    adapter = AdapterConfig(r=4, dropout=0, target_modules="all-linear")
    model = add_adapter(classifier("llama"), adapter, train_head=True, seed=0).train()
    found = map_parameters(model)
    made = TorchBlocks(model, found, torch.optim.AdamW([p for _, p in found.all()]))
    for block in found.per_block:
        for _, up in low_rank_pairs(block):
            torch.nn.init.normal_(up)
    model(**BATCH).loss.backward()
    return made


def test_norms_of_all_tensors_are_one_operation_and_one_transfer(blocks: TorchBlocks) -> None:
    with Counted() as counted:
        found = blocks.gradient_norms("all")
    num_tensors = sum(len(block) for block in blocks.blocks.per_block)
    assert counted.calls["aten::_foreach_norm"] == counted.calls["aten::stack"] == 1
    assert counted.calls["aten::_local_scalar_dense"] == 0
    assert sum(counted.calls.values()) < num_tensors / 4
    for norms, block in zip(found, blocks.blocks.per_block, strict=True):
        expected = np.array([float(p.grad.double().square().sum().sqrt()) for _, p in block])
        np.testing.assert_array_max_ulp(norms, expected, ULPS)


def test_updates_are_read_by_one_transfer(blocks: TorchBlocks) -> None:
    with Counted() as counted:
        found = blocks.gradient_norms("effective_update")
    assert counted.calls["aten::_local_scalar_dense"] == 0
    for norms, block in zip(found, blocks.blocks.per_block, strict=True):
        expected = [float((b.grad @ a + b @ a.grad).double().norm()) for a, b in low_rank_pairs(block)]
        np.testing.assert_array_equal(norms, expected)


def test_moments_of_all_matrices_are_one_message(blocks: TorchBlocks, monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[int] = []
    monkeypatch.setattr(collectives, "sum_over_ranks", lambda tensor: messages.append(len(tensor)) or tensor)
    blocks.record_features()
    with blocks.probing(BATCH, gradients=True):
        messages.clear()
        with Counted() as counted:
            found = blocks.low_rank_moments()
    num_matrices = sum(len(low_rank_pairs(block)) for block in blocks.blocks.per_block)
    assert messages == [num_matrices * (4 * 4 + 1)]
    assert counted.calls["aten::_local_scalar_dense"] == 0
    assert sum(map(len, found)) == num_matrices
    for block in found:
        for gram, moments in block:
            assert gram.shape == moments.shape == (4, 4)
            assert (np.linalg.eigvalsh(moments) > -1e-9).all()
