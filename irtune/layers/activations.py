"""What passes through blocks in a forward pass, read by hooks that are gone after it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from irtune.importance import Token
from irtune.layers import collectives
from irtune.layers.blocks import shape_of


@dataclass(frozen=True)
class ForwardPass:
    """This rank's forward pass of a probe. Each method runs one and is collective; all ranks get the same.

    Args:
        members: The L blocks.
        batch: What it is over.
        run: Runs it without a trace.
        device: Where the model computes.
    """

    members: Sequence[nn.Module]
    batch: Mapping[str, Any]
    run: Callable[[Mapping[str, Any]], Any]
    device: torch.device

    def similarities(self) -> np.ndarray:
        """``(L,)`` mean over the real tokens of the cosine between hidden states before and after a block."""
        sums = torch.zeros(len(self.members), 2, dtype=torch.float64, device=self.device)
        mask = self.batch.get("attention_mask")

        def add(index: int, before: torch.Tensor, after: torch.Tensor) -> None:
            cosine = torch.nn.functional.cosine_similarity(before.float(), after.float(), dim=-1).double()
            real = mask if mask is not None and mask.shape == cosine.shape else torch.ones_like(cosine)
            sums[index] += torch.stack([(cosine * real).sum(), real.sum().double()])

        self._run_through_blocks(add)
        totals = collectives.sum_over_ranks(sums).cpu().numpy()
        return np.asarray(totals[:, 0] / totals[:, 1])

    def token_states(self, token: Token) -> list[tuple[np.ndarray, np.ndarray]]:
        """Per block the hidden states ``(n, d)`` before and after it at one real token of the n examples of all ranks.

        Raises:
            ValueError: If the model does not keep examples apart.
        """
        own: dict[int, tuple[np.ndarray, np.ndarray]] = {}

        def keep(index: int, before: torch.Tensor, after: torch.Tensor) -> None:
            if before.dim() != 3:
                raise ValueError(
                    f"importance: the hidden states of this model have the shape {tuple(before.shape)}, and a token of "
                    "each example is read from (examples, tokens, width); use a signal that reads something else"
                )
            at = _places(token, self.batch.get("attention_mask"), before)
            rows = torch.arange(len(at), device=before.device)
            own[index] = (_to_numpy(before[rows, at]), _to_numpy(after[rows, at]))

        self._run_through_blocks(keep)
        of_ranks = collectives.gather([own[index] for index in range(len(self.members))])
        return [
            (np.concatenate([before for before, _ in parts]), np.concatenate([after for _, after in parts]))
            for parts in zip(*of_ranks, strict=True)
        ]

    def activation_energies(self, trained: set[int]) -> list[np.ndarray]:
        """Per block ``(P,)`` mean over real tokens of the squared norm of what enters each adapted layer.

        Layers that this probe did not reach on any rank (experts without tokens) are left out.

        Args:
            trained: Ids of the parameters that train, for blocks that have no adapter.
        """
        layers = [adapted_layers(member, trained) for member in self.members]
        sums = torch.zeros(len(layers), max(map(len, layers)), 2, dtype=torch.float64, device=self.device)
        mask = self.batch.get("attention_mask")

        def add(block: int, place: int, entering: torch.Tensor) -> None:
            rows = real_rows(entering, mask)
            squares = torch.linalg.vector_norm(rows, dim=-1, dtype=torch.float32).double().square()
            sums[block, place] += torch.stack([squares.sum(), squares.new_tensor(len(rows))])

        hooks = [
            layer.register_forward_pre_hook(
                lambda _, args, kwargs, block=block, place=place: add(block, place, _entering(args, kwargs)),
                with_kwargs=True,
            )
            for block, found in enumerate(layers)
            for place, layer in enumerate(found)
        ]
        with removed_after(hooks):
            self.run(self.batch)
        totals = collectives.sum_over_ranks(sums).cpu().numpy()
        return [block[reached, 0] / block[reached, 1] for block in totals for reached in [block[:, 1] > 0]]

    def _run_through_blocks(self, see: Callable[[int, torch.Tensor, torch.Tensor], None]) -> None:
        """Run, and show each block's index and its hidden states before and after."""
        hooks = [
            member.register_forward_hook(
                lambda _, args, kwargs, output, index=index: see(index, _hidden(args, kwargs), _hidden_after(output)),
                with_kwargs=True,
            )
            for index, member in enumerate(self.members)
        ]
        with removed_after(hooks):
            self.run(self.batch)


@dataclass
class LowRankFeatures:
    """Second moments of the features that each ``lora_B`` multiplies, summed over this rank's tokens.

    Args:
        ups: Per block the ``lora_B`` matrices ``(out, r)``.
        members: The L blocks, in which the layers are that hold these.
    """

    ups: Sequence[Sequence[nn.Parameter]]
    members: Sequence[nn.Module]
    sums: dict[int, torch.Tensor] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)

    @contextmanager
    def recorded(self, batch: Mapping[str, Any]) -> Iterator[None]:
        """Inside, the forward pass over ``batch`` is read; what was read before is forgotten."""
        self.sums, self.counts = {}, {}
        wanted = {id(up) for block in self.ups for up in block}
        mask = batch.get("attention_mask")
        hooks = [
            module.register_forward_pre_hook(lambda _, args, key=key: self._add(key, args[0].detach(), mask))
            for member in self.members
            for module in member.modules()
            for key in wanted & {id(parameter) for parameter in module.parameters(recurse=False)}
        ]
        with removed_after(hooks):
            yield

    def moments(self, gradients: Mapping[int, torch.Tensor]) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        """Per block, for each ``lora_B`` that saw tokens on some rank, Gram matrix of its gradient and moments.

        Args:
            gradients: Id of each ``lora_B`` -> its gradient ``(out, r)``, averaged over ranks.

        Returns:
            Matrices ``(r, r)``; the second is the mean over the tokens of all ranks, times LoRA's scaling squared.
        """
        scalings = _scalings(self.members)
        totals, grams = [], []
        for up in (up for block in self.ups for up in block):
            gradient = gradients[id(up)].double()
            grams.append((gradient.T @ gradient).reshape(-1))
            total = torch.zeros(len(grams[-1]) + 1, dtype=torch.float64, device=gradient.device)
            if id(up) in self.sums:
                total[:-1], total[-1] = self.sums[id(up)].reshape(-1), self.counts[id(up)]
            totals.append(total)
        # One message between ranks, and two from the device, for all of them.
        summed, of_gradients = iter(_to_cpu(totals, summed=True)), iter(_to_cpu(grams))
        found: list[list[tuple[np.ndarray, np.ndarray]]] = []
        for block in self.ups:
            found.append([])
            for up, counted, gram in zip(block, summed, of_gradients, strict=False):
                rank = gradients[id(up)].shape[1]
                if counted[-1] > 0:
                    moments = counted[:-1].reshape(rank, rank) * (scalings.get(id(up), 1.0) ** 2 / counted[-1])
                    found[-1].append((gram.reshape(rank, rank), moments))
        return found

    def _add(self, key: int, features: torch.Tensor, mask: torch.Tensor | None) -> None:
        # DoRA also passes a matrix without examples through it, to read the weights.
        if features.dim() != 3:
            return
        rows = real_rows(features, mask).float()
        self.sums[key] = self.sums.get(key, 0) + (rows.T @ rows).double()
        self.counts[key] = self.counts.get(key, 0) + len(rows)


def _to_cpu(vectors: Sequence[torch.Tensor], *, summed: bool = False) -> list[np.ndarray]:
    """The vectors, or their sums over ranks, by one transfer."""
    if not vectors:
        return []
    flat = torch.cat(list(vectors))
    if summed:
        collectives.sum_over_ranks(flat)
    return np.split(flat.cpu().numpy(), np.cumsum([len(each) for each in vectors])[:-1])


def adapted_layers(member: nn.Module, trained: set[int]) -> list[nn.Module]:
    """The layers of a block that carry a PEFT adapter; without any, those of which a matrix trains."""
    tuned = [module for module in member.modules() if hasattr(module, "base_layer")]
    return tuned or [
        module
        for module in member.modules()
        if any(id(p) in trained and len(shape_of(p)) > 1 for p in module.parameters(recurse=False))
    ]


def real_rows(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Vectors ``(n, d)`` of the real tokens; of all of them where the mask is of another shape."""
    rows = values.reshape(-1, values.shape[-1])
    return rows[mask.reshape(-1) > 0] if mask is not None and mask.numel() == len(rows) else rows


@contextmanager
def removed_after(hooks: Sequence[Any]) -> Iterator[None]:
    """Take hooks away at the end."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _scalings(members: Sequence[nn.Module]) -> dict[int, float]:
    """Id of a ``lora_B`` -> the factor that PEFT multiplies its layer's output by."""
    found: dict[int, float] = {}
    for layer in (module for member in members for module in member.modules()):
        ups, scaling = getattr(layer, "lora_B", None), getattr(layer, "scaling", None)
        if isinstance(ups, nn.ModuleDict) and isinstance(scaling, dict):
            found |= {id(up.weight): float(scaling[name]) for name, up in ups.items() if name in scaling}
    return found


def _places(token: Token, mask: torch.Tensor | None, hidden: torch.Tensor) -> torch.Tensor:
    """``(n,)`` where the first or last real token of each example is."""
    num_examples, num_tokens = hidden.shape[:2]
    if mask is None or mask.shape != hidden.shape[:2]:
        mask = torch.ones(num_examples, num_tokens, device=hidden.device)
    order = torch.arange(num_tokens, device=hidden.device)
    if token == "first":
        return torch.where(mask > 0, order, num_tokens).argmin(dim=1)
    return torch.where(mask > 0, order, -1).argmax(dim=1)


def _to_numpy(states: torch.Tensor) -> np.ndarray:
    return np.asarray(states.float().cpu().numpy())


def _entering(arguments: Sequence[Any], keywords: Mapping[str, Any]) -> torch.Tensor:
    """What a layer is called with first."""
    entering: torch.Tensor = arguments[0] if arguments else next(iter(keywords.values()))
    return entering.detach()


def _hidden(arguments: Sequence[Any], keywords: Mapping[str, Any]) -> torch.Tensor:
    """The hidden states that a block is called with."""
    hidden: torch.Tensor = arguments[0] if arguments else keywords["hidden_states"]
    return hidden.detach()


def _hidden_after(output: Any) -> torch.Tensor:
    hidden: torch.Tensor = output[0] if isinstance(output, tuple | list) else output
    return hidden.detach()
