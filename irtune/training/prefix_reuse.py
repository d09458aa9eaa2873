"""Which passes may read what enters the lowest block that ever trains (``irtune.training.prefix_cache``)."""

from dataclasses import dataclass, replace
from typing import Any

from irtune.config.engine_schema import EngineConfig
from irtune.layers.blocks import find_blocks
from irtune.training.idle_adapters import plain_lora
from irtune.training.shared_prefix import dropout_among


@dataclass(frozen=True)
class Reuse:
    """Which passes take kept states for the lowest blocks.

    Args:
        block: The lowest block that can ever train, below which nothing is computed anew; 0 keeps nothing.
        training: Whether training steps do.
        evaluation: Whether evaluations do.
        note: Why not all do; empty where they do.
        bytes_a_token: Room that a token's states take.
    """

    block: int = 0
    training: bool = False
    evaluation: bool = False
    note: str = ""
    bytes_a_token: int = 0

    def above(self, block: int) -> "Reuse":
        """The same where no block below ``block`` ever trains."""
        return replace(self, block=block if self.evaluation else 0)

    @property
    def below_training(self) -> int:
        """Blocks that a training step in which none of them trains does not compute."""
        return self.block if self.training else 0

    def in_words(self) -> str:
        """What is read instead of computed."""
        if self.block == 0:
            why = "the policy may train any block" if self.evaluation else self.note
            return f"every block is computed: {why}"
        passes = "training and evaluation read" if self.training else "evaluation reads"
        return f"{passes} what enters block {self.block} instead of computing it" + (
            f"; {self.note}" if self.note else ""
        )


NO_REUSE = Reuse()


def reuse_of(model: Any, engine: EngineConfig) -> Reuse:
    """What ``engine.prefix_cache`` means for a model, whatever its policy; its weights are not looked at.

    Args:
        model: The classifier with its adapter.
        engine: The settings.
    """
    setting = engine.prefix_cache
    obstacle, text = _obstacle(model), body_of(model).config.get_text_config()
    room = text.hidden_size * (4 if engine.precision == "fp32" else 2)
    if setting is False:
        return Reuse(note="engine.prefix_cache=false")
    if obstacle:
        return Reuse(note=obstacle)
    if setting == "auto" and engine.gpus_per_worker > 0:
        return Reuse(note="a GPU computes faster than files are read; engine.prefix_cache=true reads them")
    if setting == "auto":
        return Reuse(0, False, True, "engine.prefix_cache=true does so in training too, equal within rounding", room)
    dropout = dropout_among((n, m) for n, m in body_of(model).named_modules() if "lora_dropout" not in n)
    return Reuse(0, not dropout, True, f"in training {dropout} draws anew in every step" if dropout else "", room)


def _obstacle(model: Any) -> str:
    """Why states below a block are not the same in every step; empty if they are."""
    members = find_blocks(model)[1]
    if not all(plain_lora(member) for member in members):
        return "adapters other than LoRA's linear layers may add something before they train"
    if getattr(body_of(model).config.get_text_config(), "num_experts_per_tok", None):
        return "what an expert computes depends on all tokens of a batch"
    inside = {id(parameter) for member in members for parameter in member.parameters()}
    outside = [n for n, p in body_of(model).named_parameters() if p.requires_grad and id(p) not in inside]
    return f"{outside[0]} always trains" if outside else ""


def body_of(model: Any) -> Any:
    """What a classifier has beneath its head."""
    return model.get_base_model().base_model
