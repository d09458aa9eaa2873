"""Contenders of benchmarks/gpu_steps.py and step.py: Hugging Face Trainers and irtune's loop, step by step."""

import argparse
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

import irtune
from irtune.config.load import load, with_overrides
from irtune.config.schema import ExperimentConfig
from irtune.data.batches import training_batches
from irtune.data.dataset import LabelledDataset
from irtune.data.encode import EncodedSplit, encode
from irtune.methods import METHODS
from irtune.training.loop import Loop
from irtune.training.model import load_classifier
from irtune.training.pretrained import materialize, num_blocks
from irtune.training.record import NoRecorder
from irtune.training.run import prepared
from irtune.training.tokenizer import load_tokenizer

RESELECT_EVERY = 10
KINDS = ("all", "last third", "top k")
INSTRUCTION = (
    "What is the purpose of this revision of an essay: claim, evidence, general content, organization, rebuttal, "
    "reasoning, clarity, conventions, fluency? A revision of the surface leaves alone what is said; one of the content "
    "changes what the author claims, how it is supported, or in which order it comes. Read both versions of it "
    "and say which one of these purposes the author had above all."
)
"""Makes inputs of about 128 tokens."""


@dataclass(frozen=True)
class Setting:
    """What is trained with: the precision, and examples in a batch."""

    precision: str
    batch: int


@dataclass(frozen=True)
class Bench:
    """What all contenders of a setting have in common.

    Args:
        config: The experiment, but for its policy.
        dataset: Revisions with a long instruction.
        rows: Their tokens.
        tokenizer: Of the model.
        batches: Rows ``(B,)`` of each step.
        device: ``cpu`` or ``cuda``.
        folder: Where runs may write.
    """

    config: ExperimentConfig
    dataset: LabelledDataset
    rows: EncodedSplit
    tokenizer: Any
    batches: Sequence[np.ndarray]
    device: str
    folder: Path

    @classmethod
    def of(cls, setting: Setting, options: argparse.Namespace, num_steps: int, folder: Path) -> "Bench":
        """Load and tokenise."""
        settings = {
            "model.name": "tiny-random" if options.model == "tiny" else options.model,
            # The tiny model reads bytes.
            "model.max_length": 512 if options.model == "tiny" else 128,
            "adapter.r": 8,
            "adapter.alpha": 16,
            "adapter.dropout": getattr(options, "dropout", 0.0),
            "selection.reselect_every": RESELECT_EVERY,
            "training.max_steps": num_steps,
            "training.micro_batch_size": setting.batch,
            "engine.precision": setting.precision,
            "engine.gpus_per_worker": int(options.device == "cuda"),
        }
        corpus = getattr(options, "argrewrite", None)
        if corpus is None:
            settings |= {"data.name": "synthetic", "data.train_size": 2000}
            instruction = INSTRUCTION
        else:
            settings |= {"data.name": "argrewrite", "data.path": str(corpus), "model.max_length": 256}
            instruction = None if options.no_instruction else "auto"
        config = load(ExperimentConfig, None, settings)
        dataset = config.data.model_copy(update={"instruction": instruction}).load()
        tokenizer = load_tokenizer(materialize(config.model))
        rows = encode(dataset, tokenizer, config.model.max_length).splits["train"]
        batches = list(islice(training_batches(rows.lengths, setting.batch, seed=0), num_steps))
        return cls(config, dataset, rows, tokenizer, batches, options.device, folder)

    @property
    def mean_length(self) -> float:
        """Tokens of a padded input, on average over steps."""
        return float(np.mean([self.rows.lengths[batch].max() for batch in self.batches]))

    @property
    def num_blocks(self) -> int:
        """How many the model has."""
        return num_blocks(materialize(self.config.model))

    @property
    def third(self) -> int:
        """How many train if not all."""
        return max(1, self.num_blocks // 3)

    @property
    def budget(self) -> float:
        """Of cost_aware; half a step pays for the forward pass alone where inputs are short."""
        return 0.55 if self.num_blocks >= 12 else 0.75


@contextmanager
def contenders(bench: Bench) -> Iterator[dict[str, "TrainerSteps | LoopSteps"]]:
    """All six by name, ready for their first step."""
    found: dict[str, TrainerSteps | LoopSteps] = {}
    with ExitStack() as stack:
        for kind in KINDS:
            found[f"Trainer, {kind}"] = stack.enter_context(trainer_steps(bench, kind))
        for kind in KINDS:
            found[f"irtune, {kind}"] = stack.enter_context(loop_steps(bench, kind))
        yield found


class InOrder(Trainer):  # type: ignore[misc]
    """A Trainer that takes rows as they come, and keeps the loss of every step."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.losses: list[torch.Tensor] = []

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def training_step(self, *arguments: Any, **options: Any) -> torch.Tensor:
        """As ever, and keep the loss."""
        loss: torch.Tensor = super().training_step(*arguments, **options)
        self.losses.append(loss.detach())
        return loss


class TrainerSteps(TrainerCallback):  # type: ignore[misc]
    """Takes the steps of a Trainer one at a time: it trains in a thread of its own, which waits after every step."""

    def __init__(self, make: Callable[[TrainerCallback], InOrder]) -> None:
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._is_over = False
        self._error: Exception | None = None
        self.trainer = make(self)
        self._thread = threading.Thread(target=self._train, daemon=True)
        self._thread.start()

    def step(self) -> None:
        """One optimizer step, from the end of the one before it to its own end.

        Raises:
            RuntimeError: If the Trainer failed.
        """
        self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise RuntimeError(f"the Trainer failed: {type(self._error).__name__}: {self._error}") from self._error

    @property
    def losses(self) -> list[float]:
        """Of every step so far."""
        return [float(loss) for loss in self.trainer.losses]

    def close(self) -> None:
        """End training after the steps that were taken."""
        self._is_over = True
        self._go.release()
        self._thread.join()

    def on_step_end(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        """Hand over, and wait for the next turn."""
        self._done.release()
        self._go.acquire()
        control.should_training_stop |= self._is_over

    def _train(self) -> None:
        self._go.acquire()
        try:
            if not self._is_over:
                self.trainer.train()
        except Exception as error:
            self._error = error
        self._done.release()


class LoopSteps:
    """Takes the steps of irtune's loop one at a time."""

    def __init__(self, loop: Loop, batches: Sequence[np.ndarray], recorder: "Losses") -> None:
        self.loop, self._recorder, self._stream = loop, recorder, iter(batches)

    def step(self) -> None:
        """One optimizer step, as a trial takes it."""
        self.loop._step(self._stream)

    @property
    def losses(self) -> list[float]:
        """Of every step so far."""
        return self._recorder.losses

    @property
    def flops(self) -> float:
        """Of all steps so far."""
        return self.loop.totals.flops


class Losses(NoRecorder):
    """Keeps the training loss of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Keep it."""
        self.losses += [value for name, value in values.items() if name == "train/loss"]


def settings_of(bench: Bench, kind: str) -> dict[str, Any]:
    """Settings by dotted key that make one kind of choice."""
    if kind in METHODS:
        return {"method": kind}
    return {
        "all": {"selection.policy": {"name": "all"}},
        "last third": {"selection.policy": {"name": "static", "which": "last", "k": bench.third}},
        "top k": {"selection.policy": {"name": "top_k", "k": bench.third}},
        "cost_aware": {"selection.policy": {"name": "cost_aware", "budget": bench.budget}},
    }[kind]


@contextmanager
def loop_steps(bench: Bench, kind: str, **settings: Any) -> Iterator[LoopSteps]:
    """irtune's loop, for one kind of choice, with ``settings`` of the engine."""
    engine = {f"engine.{name}": value for name, value in settings.items()}
    config, recorder = with_overrides(bench.config, settings_of(bench, kind) | engine), Losses()
    folder, encoded = bench.folder / "-".join([kind, *map(str, settings.values())]), bench.folder / "encoded"
    with prepared(config, folder, recorder, lambda metrics: None, encoded, bench.dataset) as loop:
        yield LoopSteps(loop, bench.batches, recorder)


@contextmanager
def trainer_steps(bench: Bench, kind: str) -> Iterator[TrainerSteps]:
    """A Trainer as people set it up, for one kind of choice, with the same weights at the start as irtune's."""
    blocks, third = bench.num_blocks, bench.third
    adapted = range(blocks - third, blocks) if kind == "last third" else range(blocks)
    choose = [irtune.IRTuningCallback("top_k", k=third, reselect_every=RESELECT_EVERY)] if kind == "top k" else []
    with outside_a_process_group():
        steps = TrainerSteps(lambda turns: make_trainer(bench, adapted, [*choose, turns]))
    try:
        yield steps
    finally:
        steps.close()


def make_trainer(
    bench: Bench, adapted: Sequence[int], callbacks: Sequence[TrainerCallback], pad_to: int | None = None
) -> InOrder:
    """The Trainer itself, with an adapter in the blocks ``adapted``; inputs as long as the longest, or ``pad_to``."""
    config, training = bench.config, bench.config.training
    checkpoint, labels = materialize(config.model), bench.dataset.labels
    base = load_classifier(checkpoint, labels, bench.tokenizer.pad_token_id, config.seed)
    lora = peft.LoraConfig(
        task_type="SEQ_CLS",
        r=config.adapter.r,
        lora_alpha=int(config.adapter.alpha),
        lora_dropout=config.adapter.dropout,
        target_modules=list(config.adapter.target_modules),
        layers_to_transform=list(adapted),
    )
    torch.manual_seed(config.seed)
    model = peft.get_peft_model(base, lora)
    arguments = TrainingArguments(
        output_dir=str(bench.folder / "trainer"),
        per_device_train_batch_size=training.micro_batch_size,
        max_steps=training.max_steps,
        learning_rate=training.learning_rate,
        bf16=config.engine.precision == "bf16",
        use_cpu=bench.device == "cpu",
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    rows = bench.rows
    return InOrder(
        model,
        arguments,
        train_dataset=[
            {"input_ids": rows.token_ids[rows.offsets[i] : rows.offsets[i + 1]], "labels": int(rows.labels[i])}
            for i in np.concatenate(bench.batches)
        ],
        data_collator=DataCollatorWithPadding(
            bench.tokenizer, padding="max_length" if pad_to else True, max_length=pad_to
        ),
        callbacks=list(callbacks),
    )


@contextmanager
def outside_a_process_group() -> Iterator[None]:
    """Keep a Trainer from joining irtune's group of one process, in which it would wrap its model for many."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
