"""The one who measures, asks the policy and freezes: the same for every trainer."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from irtune.importance import Importance, ImportanceSignal
from irtune.layers.measured_model import Batch, MeasuredModel
from irtune.layers.refresh import ProbeMemory, ProbePasses, RefreshRule
from irtune.layers.selection_record import MemoryTrace, SelectionRecord, TraceSink
from irtune.selection import PolicyState, SelectionContext, SelectionPolicy, StepCost, Suppression


class LayerController:
    """Decides at every refresh which blocks train until the next.

    Call ``before_step`` before the first forward pass of an optimizer step and ``after_backward`` after its last
    backward pass, on every rank. What a refresh does depends on what the signal reads:

    - gradients: the step itself is the probe. All blocks are trainable for that one backward pass, scores are read from
      its gradients, the choice is made, and the gradients of the blocks that were not chosen are discarded before the
      optimizer sees them. So frozen blocks have scores as fresh as active ones.
    - gradients of a part of the micro-batch (``importance.probe_fraction``) or along with what passes forward, or
      activations: a pass of its own before the step, which leaves no trace in training.
    - weights: they are read, once if training does not change them.
    - stale gradients (as in the code of IR-Tuning's authors): every step's gradients of the blocks that train.

    Rank 0 decides and broadcasts; measuring is collective.

    Args:
        blocks: The trainer's view of its model.
        num_blocks: L.
        policy: Decides.
        signal: Measures.
        reselect_every: Refresh interval in optimizer steps; 0 chooses once.
        total_steps: Optimizer steps of the run.
        seed: Of the run; with the step it seeds the policy's generator.
        sinks: Where records go, on rank 0.
        always_measure: Probe also for a policy that does not look at scores.
        reset_on_thaw: Forget what the optimizer knows of a block that trains again.
        cost: What a step costs, for policies that ask.
        indices: ``(L,)`` the blocks' indices in the model, where they are not all of it; records and messages have
            these, all else counts from 0 to L - 1.
        num_in_model: Number of blocks of that model.
        probe_memory: Whether refreshes recompute blocks that do not train, so as to keep no more than other steps.

    Example:
        >>> import torch
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from irtune import LayerController, MemoryTrace
        >>> from irtune.importance import GradientNorm
        >>> from irtune.layers import map_parameters
        >>> from irtune.layers.torch_blocks import TorchBlocks
        >>> from irtune.selection import TopK
        >>> sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "vocab_size": 16}
        >>> model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=4, **sizes))
        >>> optimizer = torch.optim.AdamW(model.parameters())
        >>> controller = LayerController(
        ...     TorchBlocks(model, map_parameters(model), optimizer),
        ...     4,
        ...     TopK(k=1),
        ...     GradientNorm(tensors="all"),
        ...     reselect_every=2,
        ...     total_steps=3,
        ...     seed=0,
        ...     sinks=[MemoryTrace()],
        ... )
        >>> ids = torch.arange(8).reshape(2, 4)
        >>> for step in range(3):
        ...     controller.before_step(step)
        ...     optimizer.zero_grad()
        ...     model(input_ids=ids, labels=ids).loss.backward()
        ...     controller.after_backward(step)
        ...     optimizer.step()
        >>> [(record.step, len(record.active)) for record in controller.trace.records]
        [(0, 1), (2, 1)]
    """

    def __init__(
        self,
        blocks: MeasuredModel,
        num_blocks: int,
        policy: SelectionPolicy,
        signal: ImportanceSignal,
        *,
        reselect_every: int,
        total_steps: int,
        seed: int,
        sinks: Sequence[TraceSink] = (),
        always_measure: bool = False,
        reset_on_thaw: bool = False,
        cost: StepCost | None = None,
        indices: Sequence[int] | None = None,
        num_in_model: int | None = None,
        probe_memory: ProbeMemory = "low",
    ) -> None:
        policy.check(num_blocks)
        self.blocks = blocks
        self.policy = policy
        self.signal = signal
        self.rule = RefreshRule(policy, signal, reselect_every, total_steps, always_measure, probe_memory)
        self.seed = seed
        self.sinks = tuple(sinks)
        self.reset_on_thaw = reset_on_thaw
        self.cost = cost
        self.all_blocks = tuple(range(num_blocks))
        self.indices = self.all_blocks if indices is None else tuple(indices)
        self.num_in_model = num_in_model or num_blocks
        self.active = self.all_blocks
        self.importance = Importance.unseen(num_blocks)
        self.policy_state: PolicyState = {}
        self.next_refresh = 0
        self.probing = False
        self.passes = ProbePasses()
        self.batch: Batch | None = None
        signal.prepare(blocks)

    @property
    def reads_gradients(self) -> bool:
        """Whether ``after_backward`` reads the gradients of the step that ``before_step`` prepared."""
        return self.probing or (self.rule.wants_scores and self.signal.stale)

    @property
    def trace(self) -> MemoryTrace:
        """The records in memory, if there is a ``MemoryTrace`` among the sinks; filled on rank 0.

        Raises:
            ValueError: If there is none.
        """
        for sink in self.sinks:
            if isinstance(sink, MemoryTrace):
                return sink
        raise ValueError("this LayerController keeps no trace in memory; give it sinks=[MemoryTrace()]")

    def before_step(self, step: int, batch: Batch | None = None) -> None:
        """Make the blocks of optimizer step ``step`` trainable: all of them if it probes, else the active ones.

        Args:
            step: Optimizer steps done.
            batch: This rank's first micro-batch of the step; refreshes that run passes of their own need it.

        Raises:
            FloatingPointError: If a probe's scores are not finite and the trainer does not skip such steps.
        """
        self.passes, self.batch = ProbePasses(), batch
        if step < self.next_refresh:
            return
        if self.rule.probes_in_step:
            self.probing = True
            self._recompute()
            self.blocks.set_active(self.all_blocks)
            return
        if self.rule.probes_apart and not self._probe_apart(step):
            return
        self._choose(step)
        # With every block active the scores cost nothing, so the baseline has a trace too.
        self.probing = self.rule.step_has_scores and self.active == self.all_blocks
        if not self.probing:
            self._record(step)

    def after_backward(self, step: int) -> None:
        """Read the scores of a probe, choose, and freeze the rest before the optimizer steps.

        Raises:
            FloatingPointError: If gradients are not finite and the trainer does not skip such steps.
        """
        if self.rule.wants_scores and self.signal.stale:
            self._measure(step, only=self.active)
        if not self.probing:
            return
        self.probing = False
        self.blocks.recompute(())
        if not self._measure(step, only=self.all_blocks):
            # No gradient is discarded: the loss scaler has to see an overflow of frozen blocks too, or it would never
            # lower the scale.
            self._probe_again(step)
            return
        if self.rule.wants_scores:
            self._choose(step)
            self.blocks.discard_gradients(sorted(set(self.all_blocks) - set(self.active)))
        self._record(step)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to choose as this one would have; JSON-able."""
        return {
            "active": list(self.active),
            "next_refresh": self.next_refresh,
            "importance": self.importance.to_json(),
            "policy_state": dict(self.policy_state),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``; also freezes the blocks that were frozen."""
        self.active = tuple(state["active"])
        self.next_refresh = state["next_refresh"]
        self.importance = Importance.from_json(state["importance"])
        self.policy_state = state["policy_state"]
        self.blocks.set_active(self.active)

    def _probe_apart(self, step: int) -> bool:
        """Measure outside the training step; False if the scores overflowed."""
        if self.signal.source == "weights":
            seen = bool((self.importance.num_probes > 0).all())
            return (seen and not self.blocks.trains_weights) or self._measure(step, only=self.all_blocks)
        self._recompute()
        with self.blocks.probing(self._part(), gradients=self.signal.source == "gradients"):
            finite = self._measure(step, only=self.all_blocks)
        self.blocks.recompute(())
        if not finite:
            self._probe_again(step)
        return finite

    def _recompute(self) -> None:
        """Have this refresh keep no more than ordinary steps do."""
        known = self.importance.num_probes.any()
        recomputed = self.rule.recomputed(len(self.all_blocks), self.active if known else ())
        self.passes = replace(self.passes, recomputed=recomputed)
        self.blocks.recompute(recomputed)

    def _measure(self, step: int, only: Sequence[int]) -> bool:
        """Fold fresh scores of the blocks ``only`` into the importance; False if they overflowed and don't count."""
        scores = self.signal.measure(self.blocks)
        measured = np.isin(self.all_blocks, only)
        bad = measured & ~np.isfinite(scores)
        if bad.any():
            if not self.blocks.skips_overflow:
                found = list(self._in_model(np.flatnonzero(bad)))
                raise FloatingPointError(
                    f"the scores of blocks {found} are not finite at step {step}; lower "
                    "training.learning_rate, or set training.max_grad_norm and training.warmup_steps"
                )
            return False
        self.importance = self.signal.update(self.importance, np.where(measured, scores, np.nan), step)
        return True

    def _probe_again(self, step: int) -> None:
        """Scores of an overflow say nothing: keep the active set, and probe again at the next step."""
        self.next_refresh = step + 1
        self.blocks.set_active(self.active)

    def _choose(self, step: int) -> None:
        probes, losses = self._run_probes(step) if self.policy.uses_probes else ((), np.empty(0))
        decision: Any = None
        if self.blocks.rank == 0:
            context = replace(self._context(step), probes=probes, probe_losses=losses)
            decision = (step, *self.policy.select(context))
        decided_at, active, state = self.blocks.broadcast(decision)
        assert decided_at == step, f"rank {self.blocks.rank} is at step {step}, rank 0 at {decided_at}"
        if not active or not set(active) <= set(self.all_blocks) or list(active) != sorted(set(active)):
            raise ValueError(
                f"selection.policy: {self.policy.name} chose {active!r}; select must return sorted indices of blocks, "
                f"at least one, from 0 to {self.all_blocks[-1]}"
            )
        thawed = sorted(set(active) - set(self.active))
        self.active, self.policy_state = tuple(active), state
        self.next_refresh = step + self.rule.interval
        self.blocks.set_active(self.active)
        if self.reset_on_thaw and thawed:
            self.blocks.reset_optimizer_state(thawed)

    def _run_probes(self, step: int) -> tuple[tuple[Suppression, ...], np.ndarray]:
        wanted: Any = None
        if self.blocks.rank == 0:
            # Another stream than that of select, which is seeded by seed and step alone.
            generator = np.random.default_rng([self.seed, step, 1])
            wanted = self.policy.probes(replace(self._context(step), generator=generator))
        probes: tuple[Suppression, ...] = tuple(self.blocks.broadcast(wanted))
        if not probes:
            return (), np.empty(0)
        return probes, self.blocks.suppressed_losses(probes, self._part(len(probes)))

    def _context(self, step: int) -> SelectionContext:
        generator = np.random.default_rng([self.seed, step])
        return SelectionContext(
            len(self.all_blocks), step, self.rule.total_steps, self.importance, generator, self.policy_state, self.cost
        )

    def _part(self, num_suppressed: int = 0) -> Batch:
        """The part of the micro-batch that passes apart take; counts those of this refresh up to now."""
        batch = self.batch
        if batch is None:
            raise ValueError(
                f"selection: policy {self.policy.name!r} with signal {self.signal.name!r} runs passes of its own, so "
                "before_step needs a micro-batch"
            )
        rows = max(len(values) for values in batch.values())
        self.passes = self.rule.passes(rows, num_suppressed, self.passes.recomputed)
        return {name: values[: self.passes.rows] for name, values in batch.items()}

    def _record(self, step: int) -> None:
        if self.blocks.rank != 0:
            return
        record = SelectionRecord(
            step,
            self._in_model(self.active),
            self.importance.among(self.num_in_model, self.indices),
            self.blocks.trainable_parameters(self.active),
        )
        for sink in self.sinks:
            sink.write(record)

    def _in_model(self, blocks: Iterable[int]) -> tuple[int, ...]:
        return tuple(self.indices[block] for block in blocks)
