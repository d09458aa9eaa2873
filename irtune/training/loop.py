"""The training loop: steps, refreshes, evaluations and checkpoints of one run on one rank."""

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from irtune.analysis.metrics import better, evaluation
from irtune.config.schema import ExperimentConfig
from irtune.data.batches import evaluation_batches, training_batches
from irtune.data.dataset import Split
from irtune.data.encode import EncodedDataset
from irtune.layers import LayerController
from irtune.layers.collectives import gather, sum_over_ranks
from irtune.training.checkpoint import (
    checkpoints,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    save_weights,
    state_of,
)
from irtune.training.clock import StepClock, to_device
from irtune.training.cost import CostModel, PeakMemory, StepKind
from irtune.training.device_peak import mfu
from irtune.training.engine import DeepSpeedBlocks
from irtune.training.prefix_cache import PrefixCache
from irtune.training.record import Recorder, Report
from irtune.training.trial_folder import BEST_WEIGHTS, CHECKPOINTS


def weights_of(folder: Path, step: int) -> Path:
    """The file of weights that were the best when they were saved, at ``step``."""
    return folder / BEST_WEIGHTS / f"step_{step:06d}.safetensors"


@dataclass
class Totals:
    """What a run has cost and found so far; travels in checkpoints."""

    step: int = 0
    train_s: float = 0.0
    examples: int = 0
    tokens: int = 0
    """Without padding."""
    flops: float = 0.0
    active_blocks: int = 0
    lowest_active: int = 0
    trainable_parameters: int = 0
    probe_steps: int = 0
    probe_steps_s: float = 0.0
    probe_flops: float = 0.0
    best_score: float = -math.inf
    """Of the metric that decides, negative where less of it is better."""
    best_loss: float = math.inf
    best_step: int = 0
    recent_losses: list[float] = field(default_factory=list)

    def per_step(self, name: str) -> float:
        """Mean over all steps so far."""
        return float(getattr(self, name)) / max(self.step, 1)


@dataclass
class Loop:
    """Everything that one rank trains with."""

    config: ExperimentConfig
    folder: Path
    blocks: DeepSpeedBlocks
    controller: LayerController
    data: EncodedDataset
    class_names: Sequence[str]
    pad_token_id: int
    cost: CostModel
    memory: PeakMemory
    clock: StepClock
    recorder: Recorder
    report: Report
    prefix_cache: PrefixCache
    peak_flops_per_s: float | None = None
    """Of this rank's device, where it is known."""
    totals: Totals = field(default_factory=Totals)
    best_validation: np.ndarray | None = None
    """Class probabilities on validation of the best weights, unless they were found before a resume."""
    _untimed: deque[StepKind] = field(default_factory=deque)
    """The steps whose time is not known yet."""

    def run(self) -> Totals:
        """Train to ``training.max_steps``, from the newest checkpoint if there is one."""
        settings = self.config.training
        stream = self._stream()
        self._resume(stream)
        while self.totals.step < settings.max_steps:
            self._step(stream)
            done = self.totals.step
            last = done == settings.max_steps
            if done % settings.eval_every == 0 or last:
                self._validate(last)
            if done % settings.checkpoint_every == 0 and not last:
                self._checkpoint()
        self._add_times(wait=True)
        return self.totals

    @property
    def best_weights(self) -> Path:
        """The file of the best weights so far."""
        return weights_of(self.folder, self.totals.best_step)

    def first_batch(self) -> dict[str, torch.Tensor]:
        """This rank's first micro-batch of the run."""
        return self._tensors("train", next(self._stream()))

    def evaluate(self, split: Split) -> np.ndarray:
        """Class probabilities ``(N, C)`` of a split, on every rank.

        Raises:
            FloatingPointError: On every rank, if the model's outputs are not finite.
        """
        data, world_size = self.data.splits[split], dist.get_world_size()
        batches = evaluation_batches(
            data.lengths, self.config.training.eval_batch_size, rank=self.blocks.rank, world_size=world_size
        )
        self.prefix_cache.prepare(split)
        self.blocks.engine.eval()
        probabilities = np.zeros((len(data), len(self.class_names)))
        scored: list[tuple[np.ndarray, torch.Tensor]] = []
        with torch.no_grad():
            for mine in batches:
                # A rank without examples left still takes part in the forward pass, for ZeRO stage 3's collectives.
                inputs = self._tensors(split, mine if len(mine) else np.array([0]))
                logits = self.blocks.outputs(**inputs).logits.double()
                scored.append((mine, logits.softmax(dim=-1)[: len(mine)]))
        self.blocks.engine.train()
        # The host waits for the device once.
        probabilities[np.concatenate([rows for rows, _ in scored])] = (
            torch.cat([each for _, each in scored]).cpu().numpy()
        )
        # Every example is one rank's alone and zero elsewhere.
        probabilities = np.asarray(sum(gather(probabilities))) if world_size > 1 else probabilities
        bad = int((~np.isfinite(probabilities)).any(axis=1).sum())
        if bad:
            raise _diverged(f"the outputs for {bad} of {len(data)} {split} examples are not finite", self.totals)
        return probabilities

    def _step(self, stream: Iterator[np.ndarray]) -> None:
        step = self.totals.step
        # Dropout is a function of seed, step and rank, so a resumed run draws what an uninterrupted one would.
        torch.manual_seed(int(np.random.SeedSequence([self.config.seed, step, self.blocks.rank]).generate_state(1)[0]))
        indices = [next(stream) for _ in range(self.config.training.gradient_accumulation_steps)]
        self.clock.start()
        micro_batches = [self._tensors("train", chosen) for chosen in indices]
        self.controller.before_step(step, micro_batches[0])
        shapes = [(batch["input_ids"].shape[0], batch["input_ids"].shape[1]) for batch in micro_batches]
        tokens = int(sum(self.data.splits["train"].lengths[chosen].sum() for chosen in indices))
        through = self.blocks.active
        loss = self.blocks.train_step(micro_batches)
        self.controller.after_backward(step)
        learning_rate = self.blocks.scheduler.get_last_lr()[0]
        self.blocks.optimizer_step()
        self.clock.stop()
        spent = self._account(tokens, shapes, through)
        settings, done = self.config.training, self.totals.step
        logs = done % settings.log_every == 0 or done == settings.max_steps
        seconds = self._add_times(wait=logs)
        if logs:
            self._log(loss, learning_rate, spent | self._speed(seconds, tokens, spent["cost/step_flops"]))

    def _account(self, tokens: int, shapes: Sequence[tuple[int, int]], through: Sequence[int]) -> dict[str, float]:
        """Add a step to the totals, but for its time; returns its ``cost/…``.

        Args:
            tokens: Of this rank's micro-batches, without padding.
            shapes: Batch size and length of each of this rank's micro-batches.
            through: The blocks whose gradients the step computed.
        """
        totals, active, world_size = self.totals, self.blocks.active, dist.get_world_size()
        trained_flops = world_size * self.cost.optimizer_step_flops(active, shapes)
        flops = world_size * self.cost.optimizer_step_flops(through, shapes, self.controller.passes)
        trainable = self.blocks.trainable_parameters(active)
        is_probe = flops > trained_flops
        totals.step += 1
        totals.flops += flops
        totals.tokens += world_size * tokens
        totals.examples += world_size * sum(batch for batch, _ in shapes)
        totals.active_blocks += len(active)
        totals.lowest_active += active[0]
        totals.trainable_parameters += trainable
        totals.probe_steps += is_probe
        totals.probe_flops += flops - trained_flops
        kind: StepKind = "probe" if is_probe else "ordinary"
        self._untimed.append(kind)
        return {
            "cost/step_flops": flops,
            "cost/memory_bytes": self.memory.sample(kind),
            "cost/trainable_parameters": trainable,
            "cost/active_blocks": len(active),
            "cost/lowest_active_block": active[0],
        }

    def _add_times(self, *, wait: bool) -> float:
        """Add the time of steps that the device has ended, or of all if the host shall ``wait``; returns the last."""
        seconds = math.nan
        for seconds in self.clock.finished(wait=wait):
            self.totals.train_s += seconds
            self.totals.probe_steps_s += seconds * (self._untimed.popleft() == "probe")
        return seconds

    def _speed(self, seconds: float, tokens: int, flops: float) -> dict[str, float]:
        """``cost/…`` of a step that took so long, of all ranks together; ``tokens`` are those of this one."""
        world_size = dist.get_world_size()
        found = {"cost/step_s": seconds, "cost/tokens_per_s": world_size * tokens / seconds}
        return found | mfu("cost/mfu", flops / world_size, seconds, self.peak_flops_per_s)

    def _log(self, loss: torch.Tensor, learning_rate: float, spent: Mapping[str, float]) -> None:
        totals = self.totals
        mean_loss = float(sum_over_ranks(loss.clone()) / dist.get_world_size())
        totals.recent_losses = [*totals.recent_losses[-9:], mean_loss]
        if self.blocks.rank == 0:
            values = {
                "train/loss": mean_loss,
                "train/learning_rate": learning_rate,
                "train/gradient_norm": self.blocks.gradient_norm(),
            }
            self.recorder.metrics(totals.step, values | dict(spent))
        if not math.isfinite(mean_loss):
            raise _diverged(f"the training loss is {mean_loss}", totals)

    def _validate(self, last: bool) -> None:
        totals = self.totals
        probabilities = self.evaluate("validation")
        self.memory.sample()
        metrics = evaluation(self.data.splits["validation"].labels, probabilities, self.class_names)
        name = self.config.metric
        score = metrics[name] if better(name) == "max" else -metrics[name]
        # Of equal scores the lower loss is better, and of equal losses the weights that trained longer.
        if (score, -metrics["loss"]) >= (totals.best_score, -totals.best_loss):
            self.best_validation = probabilities
            totals.best_score, totals.best_loss = score, metrics["loss"]
            totals.best_step = totals.step
            save_weights(self.blocks, self.best_weights)
            self.forget_weights()
        values = {f"eval/{name}": value for name, value in metrics.items()}
        if self.blocks.rank == 0:
            self.recorder.metrics(totals.step, values)
        if not last:
            self.report({"step": totals.step, "final": False, **values})

    def _checkpoint(self) -> None:
        self._add_times(wait=True)
        state = {"totals": asdict(self.totals), "controller": self.controller.state_dict()}
        save_checkpoint(self.blocks, self.folder / CHECKPOINTS, self.totals.step, state)
        self.forget_weights()

    def forget_weights(self) -> None:
        """Delete best weights that no checkpoint to go on from calls the best.

        Those that were better at a step after the checkpoint are of a timeline that a resume leaves, so that each step
        has a file of its own.
        """
        if self.blocks.rank != 0:
            return
        states = [state_of(each)["totals"]["best_step"] for each in checkpoints(self.folder / CHECKPOINTS)]
        kept = {weights_of(self.folder, step) for step in (*states, self.totals.best_step)}
        for file in (self.folder / BEST_WEIGHTS).glob("*.safetensors"):
            if file not in kept:
                file.unlink()

    def _resume(self, stream: Iterator[np.ndarray]) -> None:
        """Go on from the newest checkpoint, as if never interrupted if there are as many workers as before.

        With another number of workers the data goes on after as many examples as were seen. The epoch's remaining
        batches are then drawn anew, so some of its examples may come twice and others not at all. And a step takes more
        or fewer examples, unless ``training.gradient_accumulation_steps`` makes up for it.
        """
        checkpoint = latest_checkpoint(self.folder / CHECKPOINTS)
        if checkpoint is None:
            return
        state = load_checkpoint(self.blocks, checkpoint)
        self.controller.load_state_dict(state["controller"])
        self.totals = Totals(**state["totals"])
        examples_a_batch = self.config.training.micro_batch_size * dist.get_world_size()
        for _ in range(math.ceil(self.totals.examples / examples_a_batch)):
            next(stream)
        if self.blocks.rank == 0:
            self.recorder.resumed(self.totals.step)

    def _stream(self) -> Iterator[np.ndarray]:
        return training_batches(
            self.data.splits["train"].lengths,
            self.config.training.micro_batch_size,
            seed=self.config.seed,
            rank=self.blocks.rank,
            world_size=dist.get_world_size(),
        )

    def _tensors(self, split: Split, indices: np.ndarray) -> dict[str, torch.Tensor]:
        arrays = self.data.splits[split].collate(indices, self.pad_token_id)
        tensors = {name: to_device(torch.from_numpy(array), self.blocks.device) for name, array in arrays.items()}
        self.prefix_cache.remember(tensors, split, indices)
        return tensors


def _diverged(what: str, totals: Totals) -> FloatingPointError:
    return FloatingPointError(
        f"{what} at step {totals.step}: training has diverged; lower training.learning_rate, or set "
        "training.warmup_steps and training.max_grad_norm"
    )
