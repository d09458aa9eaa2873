"""The instruction that every example begins with, computed once per batch instead of once per example.

In a causal model the hidden states of a token depend on it and on what stands before it, so tokens that all rows of a
batch begin with have the same hidden states in each. A batch is therefore read as one row: the common tokens, then the
own ones of each row, at the positions that they have there. All layers but attention work on single tokens and take
this row as it is. Attention takes it apart again: own tokens attend to the keys and values of the common tokens, which
are expanded to all rows, and to their own row. As the expansion is part of the graph, gradients of the common tokens
are the sums over rows that they are without it. Every module still runs once per pass, so that ZeRO 3's collectives,
hooks and gradient checkpointing see what they always see.

Losses and gradients equal those of the ordinary pass within rounding, but for dropout: on the common tokens there is
one draw for all rows of a batch. Each row has dropout of the same kind as before, so losses and gradients have the same
expectation, but the noise of these tokens is no longer averaged over rows, and a run is not the one that the same seed
gives without sharing.
"""

import functools
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

FAMILIES = frozenset(
    {"gemma", "gemma2", "gpt2", "gpt_neox", "llama", "mistral", "mixtral", "opt", "phi", "qwen2", "qwen3"}
)
"""Values of ``model_type`` whose losses and gradients are tested to be equal: causal attention through transformers'
interface, and positions that a caller may set. Bloom and Falcon, which can add biases by the place in a row (ALiBi),
have attention of their own."""

IMPLEMENTATIONS = ("eager", "sdpa")
"""Of attention, those that take any mask."""

LEAST_TOKENS = 8
"""Fewer common tokens are not worth a second call of attention."""


@dataclass(frozen=True)
class Sharing:
    """How many tokens at the beginning of a batch's rows are computed once.

    Args:
        common: Tokens that all examples begin with.
        training: Those that training steps compute once.
        evaluation: Those that evaluation computes once.
        note: Why it is not all of them; empty where it is.
    """

    common: int = 0
    training: int = 0
    evaluation: int = 0
    note: str = ""

    def at_most(self, tokens: int) -> "Sharing":
        """The same where examples have only so many tokens in common."""
        common, training, evaluation = (min(n, tokens) for n in (self.common, self.training, self.evaluation))
        return Sharing(common, training, evaluation, self.note)

    @staticmethod
    def applies(shared: int, batch_size: int, length: int) -> bool:
        """Whether a batch of this shape is read so: a single row has nothing to share."""
        return shared > 0 and batch_size > 1 and length > shared

    def in_words(self) -> str:
        """What is computed once, of the tokens that examples begin with."""
        said = f"of {self.common} tokens that all examples begin with, training computes {self.training} once per batch"
        return f"{said}, evaluation {self.evaluation}" + (f"; {self.note}" if self.note else "")


NO_SHARING = Sharing()


def sharing_of(model: Any, setting: bool | str, num_common: int, longest: int) -> Sharing:
    """What ``engine.share_prefix`` means for a model and its data.

    Args:
        model: The classifier with its adapter; its weights are not looked at.
        setting: True, false or ``auto``.
        num_common: Tokens that every example begins with.
        longest: Tokens of the longest example.

    Raises:
        ValueError: If it is asked for and the model cannot.
    """
    if setting is False or num_common < LEAST_TOKENS:
        return Sharing(num_common, note="engine.share_prefix=false" if setting is False else "too few to pay")
    obstacle = _obstacle(_classifier(model).config.get_text_config(), longest)
    if obstacle and setting is True:
        raise ValueError(f"engine.share_prefix: {obstacle}; set it to auto or false, or use another model")
    if obstacle:
        return Sharing(num_common, note=obstacle)
    dropout = dropout_among(model.named_modules())
    if dropout and setting is not True:
        note = (
            f"in training {dropout} would draw once for a whole batch: set adapter.dropout=0 for equal results, or "
            "engine.share_prefix=true for the same on average"
        )
        return Sharing(num_common, 0, num_common, note)
    return Sharing(num_common, num_common, num_common)


class SharedPrefix:
    """Passes of a model over batches whose rows all begin with the same tokens.

    Args:
        model: The classifier with its adapter. From now on its body also reads such batches; ordinary passes stay as
            they are.
        tokens: The common tokens ``(P,)``.
        sharing: Of the model.
    """

    def __init__(self, model: Any, tokens: np.ndarray, sharing: Sharing) -> None:
        self.sharing = sharing
        self._model = model
        self._tokens = torch.tensor(tokens, dtype=torch.long)
        self._batch_shape: tuple[int, int] | None = None
        if sharing.evaluation == 0:
            return
        classifier = _classifier(model)
        config = classifier.config.get_text_config()
        self._is_eager = config._attn_implementation == "eager"
        config._attn_implementation = _registered(config._attn_implementation)
        classifier.base_model.register_forward_pre_hook(self._joined, with_kwargs=True)
        classifier.base_model.register_forward_hook(self._parted)

    def outputs(self, forward: nn.Module, **batch: torch.Tensor) -> Any:
        """The outputs of ``forward``, the model in whatever wraps it, on a batch that is padded on the right.

        A batch that does not begin with the common tokens takes an ordinary pass on a CPU, and is an error of the
        device on a GPU, where looking first would make the host wait.
        """
        ids = batch["input_ids"]
        # Not that of whatever wraps it: DeepSpeed's engine takes itself to be training ever after.
        shared = self.sharing.training if self._model.training else self.sharing.evaluation
        if not Sharing.applies(shared, *ids.shape):
            return forward(**batch)
        self._tokens = self._tokens.to(ids.device)
        alike = (ids[:, :shared] == self._tokens[:shared]).all()
        if ids.device.type == "cuda":
            torch._assert_async(alike)
        elif not alike:
            return forward(**batch)
        own = {name: batch[name][:, shared:] for name in ("input_ids", "attention_mask") if name in batch}
        self._batch_shape = (ids.shape[0], shared)
        try:
            # The head finds each row's last token among its own ones.
            return forward(**(batch | own))
        finally:
            self._batch_shape = None

    def _joined(self, body: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Arguments of the body, with one row instead of the own tokens of all."""
        if self._batch_shape is None:
            return None
        rows, shared = self._batch_shape
        own = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        places = torch.arange(shared + own.shape[1], device=own.device)
        one_row = {
            "input_ids": torch.cat([self._tokens[:shared], own.reshape(-1)])[None],
            "position_ids": torch.cat([places[:shared], places[shared:].repeat(rows)])[None],
            "attention_mask": self._mask(places, next(body.parameters()).dtype).expand(rows, -1, -1, -1),
        }
        return (), {**kwargs, **one_row}

    def _parted(self, body: nn.Module, args: Any, output: Any) -> Any:
        """The body's hidden states ``(B, S, d)`` of own tokens."""
        if self._batch_shape is not None:
            rows, shared = self._batch_shape
            hidden = output.last_hidden_state
            output.last_hidden_state = hidden[0, shared:].view(rows, -1, hidden.shape[-1])
        return output

    def _mask(self, places: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Causal ``(1, 1, T, T)``; padding on the right is seen by padding alone."""
        seen = (places[:, None] >= places)[None, None]
        if not self._is_eager:
            return seen
        return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


def _classifier(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _obstacle(config: Any, longest: int) -> str:
    """Why a model cannot; empty if it can."""
    if config.model_type not in FAMILIES:
        return f"models of type {config.model_type} are not known to allow it ({', '.join(sorted(FAMILIES))} are)"
    if config._attn_implementation not in (*IMPLEMENTATIONS, *map(_name, IMPLEMENTATIONS), None):
        return f"its attention is {config._attn_implementation!r}, and {' or '.join(IMPLEMENTATIONS)} takes the mask"
    window = getattr(config, "sliding_window", None)
    if window is not None and window < longest:
        return f"its attention reaches {window} tokens back, and the longest example has {longest}"
    if not getattr(config, "is_causal", True) or getattr(config, "use_bidirectional_attention", False):
        return "its attention is not causal"
    if getattr(config, "reorder_and_upcast_attn", False):
        return "reorder_and_upcast_attn has attention of its own"
    return ""


def dropout_among(modules: Iterable[tuple[str, nn.Module]]) -> str:
    """One of these modules that drops at random while it trains, by name; empty if there is none."""
    for name, module in modules:
        rates = [("p", getattr(module, "p", 0.0))] if "Dropout" in type(module).__name__ else []
        rates += [(key, value) for key, value in vars(module).items() if "drop" in key or "jitter" in key]
        for key, value in rates:
            values = value.values() if isinstance(value, Mapping) else [value]
            if any(isinstance(each, float) and each > 0 for each in values):
                return f"the dropout of {name.replace('base_model.model.', '')}" + ("" if key == "p" else f" ({key})")
    return ""


def _name(implementation: str) -> str:
    return f"irtune_{implementation}"


def _registered(implementation: str) -> str:
    """The name under which transformers finds an implementation of attention that also reads joined rows."""
    if implementation not in IMPLEMENTATIONS:
        return implementation
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
    from transformers.modeling_utils import AttentionInterface

    name = _name(implementation)
    AttentionInterface.register(name, functools.partial(_attend, implementation))
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[implementation])
    return name


def _attend(
    implementation: str,
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention of queries, keys and values ``(1, heads, P + B * S, width)``, by the mask ``(B, 1, T, T)`` of all rows.

    Anything else is left to the implementation; T = P + S.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    attend: Any = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager)
    if attention_mask is None or query.shape[0] >= attention_mask.shape[0]:
        output: tuple[torch.Tensor, torch.Tensor | None] = attend(module, query, key, value, attention_mask, **kwargs)
        return output
    rows, length = attention_mask.shape[0], attention_mask.shape[-1]
    shared = (rows * length - query.shape[2]) // (rows - 1)

    def own(joined: torch.Tensor) -> torch.Tensor:
        heads, _, width = joined.shape[1:]
        return joined[0, :, shared:].reshape(heads, rows, -1, width).transpose(0, 1)

    def whole(joined: torch.Tensor) -> torch.Tensor:
        return torch.cat([joined[:, :, :shared].expand(rows, -1, -1, -1), own(joined)], dim=2)

    common = [joined[:, :, :shared] for joined in (query, key, value)]
    of_common = attend(module, *common, attention_mask[:1, :, :shared, :shared], **kwargs)[0]
    of_own = attend(module, own(query), whole(key), whole(value), attention_mask[:, :, shared:], **kwargs)[0]
    return torch.cat([of_common, of_own.flatten(0, 1)[None]], dim=1), None
