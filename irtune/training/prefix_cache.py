"""The frozen prefix computed once: hidden states that enter the lowest block which can ever train, kept in files.

Below that block every output is the pretrained model's, at every step, in every trial and with every seed: adapters
that have never trained add exactly zero. So states are computed once per split, kept beside the tokens of a sweep, and
read by all of its trials. The blocks below are then entered as always, since their hooks give each block its stream of
dropout and ZeRO 3 its weights, but pass on what they get; the last of them gives the kept states.

The last bits of a matrix product depend on the shape of what is multiplied, so an example has other last bits in other
company. States are those of evaluation's batches, which are always the same ones: evaluation is bit for bit what it is
without. Training batches differ from epoch to epoch, so there losses are equal within rounding, and ``auto`` leaves
training alone. A run is in any case the same whether it found the states or computed them.

A file serves whoever would compute it bit for bit: its name is a digest of the pretrained weights below the block, the
tokens, the batches, the precision, the attention, the machine's kind, threads and the libraries' versions.
"""

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from irtune.config.schema import ExperimentConfig
from irtune.data.batches import evaluation_batches
from irtune.data.dataset import Split
from irtune.data.encode import EncodedDataset, EncodedSplit
from irtune.layers.blocks import shape_of
from irtune.layers.collectives import gather, world_size
from irtune.processor import processor_name
from irtune.training.engine import DeepSpeedBlocks
from irtune.training.idle_adapters import plain_lora, ups
from irtune.training.kept_states import KeptStates, laid_out, rows_of
from irtune.training.prefix_reuse import Reuse, body_of
from irtune.training.shared_prefix import Sharing
from irtune.training.state_file import StateFile, bytes_in


class _NotKeptError(Exception):
    """The states of a split cannot be kept; the message says why."""


class PrefixCache:
    """Passes of a trainer's model over examples whose states below a block are kept.

    Args:
        blocks: The trainer; from now on its passes in training and evaluation go through here. Probes that are passes
            of their own do not.
        reuse: Of the model and its policy.
        data: The examples.
        pad_token_id: Of the model.
        sharing: Of the model.
        config: The run.
        folder: Where all trials that may share states find them.
    """

    def __init__(
        self,
        blocks: DeepSpeedBlocks,
        reuse: Reuse,
        data: EncodedDataset,
        pad_token_id: int,
        sharing: Sharing,
        config: ExperimentConfig,
        folder: Path,
    ) -> None:
        self.reuse = reuse
        self._blocks, self._data, self._pad, self._shared_tokens = blocks, data, pad_token_id, sharing.evaluation
        self._folder, self._limit = folder, config.engine.prefix_cache_gib * 2**30
        self._batch_size = config.training.eval_batch_size
        self._kept: dict[Split, KeptStates | None] = {}
        self._places: Any = WeakIdKeyDictionary()
        self._active: tuple[int, ...] = ()
        self._adds_nothing: bool | None = None
        self._num_outputs: int | None = None
        self._weights = ""
        self._ordinary: Callable[..., Any] = blocks.outputs
        if reuse.block:
            blocks.outputs = self.outputs
        if reuse.training and not self.prepare("train"):
            self.reuse = replace(reuse, training=False, note="states of training examples could not be kept")

    def remember(self, inputs: Mapping[str, torch.Tensor], split: Split, indices: np.ndarray) -> None:
        """Learn which examples a batch is made of."""
        if self.reuse.block:
            self._places[inputs["input_ids"]] = (split, indices)

    def outputs(self, **batch: torch.Tensor) -> Any:
        """The model's outputs, with kept states where there are some and all blocks below stand still."""
        wanted = self.reuse.training if self._blocks.model.training else self.reuse.evaluation
        self._notice_active()
        split, indices = self._places.get(batch["input_ids"], ("", None))
        kept = self._kept.get(split)
        if not wanted or kept is None or min(self._blocks.active) < self.reuse.block or not self._are_untrained():
            return self._ordinary(**batch)
        states = kept.rows(indices, batch["input_ids"].shape[1]).to(self._blocks.device)
        with self._given(states):
            return self._ordinary(**batch)

    def prepare(self, split: Split) -> bool:
        """Have the states of a split at hand, computed if nobody has; False if they cannot be kept. Collective."""
        if not self.reuse.block or not self.reuse.evaluation or not self._are_untrained():
            return False
        if split not in self._kept:
            self._kept[split] = self._found(split)
        return self._kept[split] is not None

    def _notice_active(self) -> None:
        if self._active != self._blocks.active:
            self._active, self._adds_nothing = self._blocks.active, None

    def _are_untrained(self) -> bool:
        """Whether the adapters below add nothing; looked at anew when other blocks train. Collective at stage 3."""
        self._notice_active()
        if self._adds_nothing is None:
            below = [up for member in self._blocks.members[: self.reuse.block] for up in ups(plain_lora(member))]
            with torch.no_grad(), self._blocks.gathered(below):
                self._adds_nothing = not bool(torch.stack([up.any() for up in below]).any())
        return self._adds_nothing

    def _found(self, split: Split) -> KeptStates | None:
        try:
            return self._opened(split)
        except _NotKeptError as error:
            logging.getLogger(__name__).warning("engine.prefix_cache: states of %s are not kept: %s", split, error)
            return None

    def _opened(self, split: Split) -> KeptStates:
        """The states of a split, of which this rank computes its share unless every rank finds its own."""
        ranks, rank = world_size(), self._blocks.rank
        if not self._learn_outputs(split):
            raise _NotKeptError("blocks hand on more than hidden states")
        data = self._data.splits[split]
        shares = [self._batches(data, each, ranks) for each in range(ranks)]
        key, dtype = self._key(split), next(self._blocks.model.parameters()).dtype
        width = int(body_of(self._blocks.model).config.get_text_config().hidden_size)
        files = [
            StateFile(self._folder / f"{key}-{each}-of-{ranks}", _tokens(data, shares[each]), width, dtype)
            for each in range(ranks)
        ]
        fresh = not all(gather(files[rank].open() is not None))
        if fresh:
            needed = sum(file.num_bytes for file in files)
            room = self._limit - bytes_in(self._folder)
            if not all(gather(needed <= room)):
                need, left = needed / 2**30, max(room, 0) / 2**30
                raise _NotKeptError(f"they need {need:.2g} GiB, and engine.prefix_cache_gib leaves {left:.2g}")
            failure = ""
            try:
                files[rank].write(self._computed(split, shares[rank]))
            except (OSError, ValueError) as error:
                failure = str(error)
            if failures := [one for one in gather(failure) if one]:
                raise _NotKeptError(failures[0])
        opened = [file.open(check=False) for file in files]
        if not all(gather(all(states is not None for states in opened))):
            raise _NotKeptError("not every rank sees the files of all")
        kept = KeptStates(data, shares, [states for states in opened if states is not None])
        if fresh and not all(gather(self._is_equal(split, kept, shares[rank][-1]))):
            raise _NotKeptError("outputs differ from those of the ordinary pass")
        return kept

    def _batches(self, data: EncodedSplit, rank: int, ranks: int) -> list[np.ndarray]:
        return evaluation_batches(data.lengths, self._batch_size, rank=rank, world_size=ranks)

    def _inputs(self, split: Split, batch: np.ndarray) -> dict[str, torch.Tensor]:
        # As in evaluation, a rank without examples left takes part with one that is not its own.
        arrays = self._data.splits[split].collate(batch if len(batch) else np.array([0]), self._pad)
        return {name: torch.from_numpy(array).to(self._blocks.device) for name, array in arrays.items()}

    def _computed(self, split: Split, batches: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
        """States of each example, in the order of the batches."""
        block, lengths = self.reuse.block, self._data.splits[split].lengths
        last = self._blocks.members[block - 1]
        for batch in batches:
            inputs = self._inputs(split, batch)
            seen: list[Any] = []
            handle = last.register_forward_hook(lambda _, args, output, seen=seen: seen.append(output))
            with _evaluating(self._blocks), self._replaced(range(block, len(self._blocks.members))):
                self._ordinary(**inputs)
            handle.remove()
            hidden = rows_of(seen[0][0] if isinstance(seen[0], tuple) else seen[0], *inputs["input_ids"].shape)
            yield from (hidden[row, : lengths[index]] for row, index in enumerate(batch))

    def _is_equal(self, split: Split, kept: KeptStates, batch: np.ndarray) -> bool:
        """Whether a batch has the outputs with kept states that it has without, bit for bit."""
        inputs = self._inputs(split, batch)
        states = kept.rows(batch if len(batch) else np.array([0]), inputs["input_ids"].shape[1])
        states = states.to(self._blocks.device)
        with _evaluating(self._blocks):
            expected = self._ordinary(**inputs).logits
            with self._given(states):
                found = self._ordinary(**inputs).logits
        # What stands in for an empty batch was computed in other company.
        return not len(batch) or torch.equal(found, expected)

    def _given(self, states: torch.Tensor) -> AbstractContextManager[None]:
        """The blocks below compute nothing, and the last of them gives ``states`` ``(B, T, d)``."""
        return self._replaced(range(self.reuse.block), lambda hidden: laid_out(states, hidden))

    @contextmanager
    def _replaced(
        self, members: Sequence[int], give: Callable[[torch.Tensor], torch.Tensor] = lambda hidden: hidden
    ) -> Iterator[None]:
        """Let blocks pass on the hidden states that they get, and the last of them give others in their place."""

        def forward(index: int, *args: Any, **kwargs: Any) -> Any:
            hidden = next(chain(args, kwargs.values()))
            hidden = give(hidden) if index == members[-1] else hidden
            return hidden if self._num_outputs is None else (hidden, *[None] * (self._num_outputs - 1))

        with ExitStack() as stack:
            for index in members:
                stack.enter_context(_instead(self._blocks.members[index], functools.partial(forward, index)))
            yield

    def _learn_outputs(self, split: Split) -> bool:
        """Whether blocks give hidden states alone, or in a tuple with nothing else."""
        seen: list[Any] = []
        handle = self._blocks.members[0].register_forward_hook(lambda _, args, output: seen.append(output))
        with _evaluating(self._blocks):
            self._ordinary(**self._inputs(split, np.array([0])))
        handle.remove()
        self._num_outputs = len(seen[0]) if isinstance(seen[0], tuple) else None
        return self._num_outputs is None or all(each is None for each in seen[0][1:])

    def _key(self, split: Split) -> str:
        """What the states of a split depend on, to the last bit."""
        self._weights = self._weights or self._fingerprint()
        data, device = self._data.splits[split], self._blocks.device
        config = body_of(self._blocks.model).config
        of_labels = ("_name_or_path", "id2label", "label2id", "problem_type")
        depends_on = {
            "weights": self._weights,
            "model": {key: value for key, value in config.to_dict().items() if key not in of_labels},
            "attention": config.get_text_config()._attn_implementation,
            "tokens": hashlib.sha256(np.ascontiguousarray(data.token_ids).tobytes()).hexdigest(),
            "offsets": hashlib.sha256(np.ascontiguousarray(data.offsets).tobytes()).hexdigest(),
            "block": self.reuse.block,
            "batches": [self._batch_size, world_size()],
            "shared": self._shared_tokens,
            "precision": [str(next(self._blocks.model.parameters()).dtype), torch.get_float32_matmul_precision()],
            "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
            "threads": torch.get_num_threads(),
            "versions": [torch.__version__, transformers.__version__],
        }
        return hashlib.sha256(json.dumps(depends_on, sort_keys=True, default=str).encode()).hexdigest()[:24]

    def _fingerprint(self) -> str:
        """A digest of the pretrained weights that states depend on."""
        members, body, block = self._blocks.members, body_of(self._blocks.model), self.reuse.block
        left_out = {id(tensor) for member in members[block:] for tensor in _tensors(member)}
        left_out |= {id(parameter) for _, parameter in self._blocks.blocks.all()}
        digest = hashlib.sha256()
        for name, tensor in chain(body.named_parameters(), body.named_buffers()):
            if id(tensor) in left_out:
                continue
            whole = [tensor] if isinstance(tensor, nn.Parameter) else []
            with torch.no_grad(), self._blocks.gathered(whole):
                content = tensor.detach().cpu().contiguous().reshape(-1)
                # PEFT calls what it adapts base_layer.
                digest.update(f"{name.replace('base_layer.', '')} {content.dtype} {shape_of(tensor)}".encode())
                digest.update(content.view(torch.uint8).numpy())
        return digest.hexdigest()


@contextmanager
def _instead(member: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let a block compute ``forward``; its hooks stay."""
    before, compiled = vars(member).get("forward"), member._compiled_call_impl
    vars(member)["forward"], vars(member)["_compiled_call_impl"] = forward, None
    try:
        yield
    finally:
        vars(member)["_compiled_call_impl"] = compiled
        if before is None:
            del vars(member)["forward"]
        else:
            vars(member)["forward"] = before


@contextmanager
def _evaluating(blocks: DeepSpeedBlocks) -> Iterator[None]:
    # DeepSpeed's engine passes both on to its model, and takes itself to be training ever after.
    was_training = blocks.model.training
    blocks.engine.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        blocks.engine.train(was_training)


def _tokens(data: EncodedSplit, batches: Sequence[np.ndarray]) -> int:
    return int(sum(data.lengths[batch].sum() for batch in batches))


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    return chain(module.parameters(), module.buffers())
