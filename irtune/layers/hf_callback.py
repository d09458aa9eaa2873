"""IR-Tuning for any Hugging Face Trainer: a callback that freezes and thaws blocks, without Ray, DeepSpeed or MLflow.

What a Trainer's own events cannot do is done by hooks of PyTorch's. Before the first forward pass of an optimizer step
the controller needs the inputs: a hook before the model's forward pass hands them over. After the step's last backward
pass it needs the gradients before they are clipped, and a Trainer's next event comes after that: the autograd engine
calls back when the pass is over, reductions over processes included. When training ends by an exception there is no
event at all (``hf_release.py``).
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState

from irtune.importance import SIGNALS, ImportanceSignal
from irtune.layers.blocks import Blocks, map_parameters
from irtune.layers.compiled_blocks import CompiledBlocks, check_compiled
from irtune.layers.controller import LayerController
from irtune.layers.fitting import leaves_tensors_open, policy_among, signal_for
from irtune.layers.hf_checkpoint import go_on, progress_of
from irtune.layers.hf_checks import (
    InputGradients,
    check_trainer,
    embedding_parameters,
    head_parameters,
)
from irtune.layers.hf_release import at_end_of_training, watch_training
from irtune.layers.measured_model import Batch, innermost_optimizer
from irtune.layers.presets import POLICY, arguments_of, chosen, method_named, options_of, signal_of, to_json
from irtune.layers.recompute import is_checkpointing
from irtune.layers.refresh import ProbeMemory
from irtune.layers.selection_record import MemoryTrace
from irtune.layers.torch_blocks import FrozenState, TorchBlocks
from irtune.plugins import one_of
from irtune.selection import POLICIES, SelectionPolicy, StepCost

logger = logging.getLogger(__name__)

Measure = Literal["when_needed", "always"]
OnThaw = Literal["keep", "reset"]
_DEFAULTS = {"reselect_every": 20, "on_thaw": "keep", "train_head": True}
Stage = Literal["idle", "begun", "forward", "backward", "done"]
"""How far an optimizer step is: begun by the Trainer, first forward pass, last backward pass, gradients handled."""


class IRTuningCallback(TrainerCallback, ExportableState):  # type: ignore[misc]
    """Trains at any time only the blocks that a policy chooses; frozen ones don't move by one bit.

    For ``transformers.Trainer`` and what is made of it (Seq2SeqTrainer, TRL's SFTTrainer), on one device or under
    DistributedDataParallel, in fp32, bf16 or fp16. With adapters blocks are their adapters; without, whole blocks
    train, as in LISA. A block without trainable parameters, by your doing or LoRA's ``layers_to_transform``, stays so:
    counts and fractions are of the other blocks, and all indices those of the model.

    However ``train`` ends, by an exception or Ctrl-C too, what was trainable before is so again, and model and
    optimizer are without hooks; ``release`` does that at any other time.

    A choice by gradients costs no pass of its own: at a refresh all blocks are trainable for one step, and the
    gradients of those not chosen are discarded before clipping. Signals with ``probe_fraction`` below 1, and those of
    hidden states, run a pass over the step's first micro-batch, with the loss of the model itself.

    A checkpoint of the Trainer holds what a resumed run needs to go on as if it had not stopped.

    Args:
        policy: Which blocks train: a method of ``irtune methods`` (``"lisa"``, ``"ir_authors"``), which also brings
            defaults for the arguments below; or a policy's name with its options as further keyword arguments
            (``"top_k", k=4``), a mapping (``{"name": "top_k", "k": 4}``), ``package.module:Class``, or a policy. A name
            that is both is the method; explicit arguments lie above a method's.
        importance: What scores blocks, likewise; by default the norm of gradients. Gradients are those of ``lora_B``,
            or of all of a block's tensors where there is none, unless ``tensors`` is given.
        reselect_every: Optimizer steps between two choices, 0 to choose once; by default the method's, or 20.
        measure: ``always`` measures also for a policy that does not look at scores, for the trace.
        on_thaw: ``reset`` forgets what the optimizer knows of a block that trains again; by default the method's, or
            ``keep``.
        frozen_state: ``drop`` frees what the optimizer knows of a frozen block, which then starts anew when it thaws;
            the memory of LISA's users.
        compile: ``blocks`` compiles the training pass of each block by itself, in one process, without gradient
            checkpointing. The first steps take longer, results round otherwise, and what fails a check against
            uncompiled blocks before the first step goes on uncompiled, with a warning; ``compiled`` says which.
        probe_memory: ``low`` has a refresh that computes gradients of frozen blocks recompute these in its backward
            pass, so that it takes little more memory than an ordinary step, at equal results; ``fast`` keeps their
            activations.
        train_embeddings: Whether embeddings that are trainable train all the time, as in LISA. The backward pass then
            runs through every block, and freezing saves no time, only the optimizer's work. False freezes them, and
            with them a head tied to them.
        train_head: Whether what lies neither in a block nor with the embeddings (a head, the last norm) trains, as far
            as it is trainable; by default yes, but for ``ir_authors``.
        seed: Of the policy's random choices; by default the Trainer's.
        **options: Options of the policy.

    Attributes:
        viewers: Called on rank 0 after each optimizer step in which blocks were chosen, and, with ``True``, when
            training has come to its end; ``irtune.plot_trace(…, live=True)`` adds one.
        blocks_name: Dotted name of the model's list of blocks, such as ``model.layers``; from the start of training.

    Raises:
        ValueError: If something is unknown or does not fit; when training starts, if the Trainer's setting does not
            allow exact freezing.

    Example:
        >>> import contextlib, tempfile
        >>> from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
        >>> from irtune import IRTuningCallback
        >>> sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "vocab_size": 16}
        >>> model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=4, **sizes))
        >>> data = [{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}] * 8
        >>> choose = IRTuningCallback("top_k", k=2, reselect_every=1)
        >>> quiet = {"save_strategy": "no", "report_to": "none"}
        >>> args = TrainingArguments(tempfile.mkdtemp(), max_steps=2, use_cpu=True, **quiet)
        >>> with contextlib.redirect_stdout(None):
        ...     _ = Trainer(model, args, train_dataset=data, callbacks=[choose]).train()
        >>> choose.trace.active().sum(axis=1)
        array([2, 2])
    """

    def __init__(
        self,
        policy: str | Mapping[str, Any] | SelectionPolicy = "variance_split",
        *,
        importance: str | Mapping[str, Any] | ImportanceSignal | None = None,
        reselect_every: int | None = None,
        measure: Measure = "when_needed",
        on_thaw: OnThaw | None = None,
        frozen_state: FrozenState = "keep",
        compile: Literal["blocks"] | None = None,
        probe_memory: ProbeMemory = "low",
        train_embeddings: bool = True,
        train_head: bool | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        method = method_named(policy)
        given = {"reselect_every": reselect_every, "on_thaw": on_thaw, "train_head": train_head}
        said = {name: value for name, value in given.items() if value is not None}
        arguments: dict[str, Any] = {**_DEFAULTS, **arguments_of(method), **said}
        one_of("measure", measure, Measure)
        one_of("on_thaw", arguments["on_thaw"], OnThaw)
        one_of("frozen_state", frozen_state, FrozenState)
        one_of("compile", compile or "blocks", Literal["blocks"])
        one_of("probe_memory", probe_memory, ProbeMemory)
        self.reselect_every: int = _interval(arguments["reselect_every"])
        own = ("importance", *given, "measure", "frozen_state", "compile", "probe_memory", "train_embeddings", "seed")
        self.policy: SelectionPolicy = chosen(
            "policy", options_of(method, POLICY) or policy, POLICIES, SelectionPolicy, options, own
        )
        self.signal = signal_of(method, importance)
        # An object is what it is; a name may leave open which tensors are read.
        self._finds_tensors = leaves_tensors_open(self.signal) and self.signal is not importance
        self.measure = measure
        self.on_thaw: OnThaw = arguments["on_thaw"]
        self.train_head: bool = arguments["train_head"]
        self.frozen_state: FrozenState = frozen_state
        self.compile: Literal["blocks"] | None = compile
        self.compiled = "nothing"
        self.probe_memory: ProbeMemory = probe_memory
        self.train_embeddings = train_embeddings
        self.seed = seed
        self.viewers: list[Callable[[bool], None]] = []
        self.blocks_name = ""
        watch_training(Trainer)
        self._controller: LayerController | None = None
        self._blocks: TorchBlocks | None = None
        self._input_gradients: InputGradients | None = None
        self._frozen_beside: list[nn.Parameter] = []
        self._handles: list[Any] = []
        self._stage: Stage = "idle"
        self._gradients_counted = False
        self._step = self._seen = 0

    @property
    def controller(self) -> LayerController:
        """Who decides; there from the start of training.

        Raises:
            ValueError: If training has not started.
        """
        if self._controller is None:
            raise ValueError("IRTuningCallback has no controller before training has started; call trainer.train()")
        return self._controller

    @property
    def trace(self) -> MemoryTrace:
        """What was chosen at each refresh, and by which scores; on rank 0."""
        return self.controller.trace

    def release(self) -> None:
        """Make everything trainable that was so when training began, and leave model and optimizer without hooks.

        Called by itself when training ends, however it ends. Training that still runs goes on with every block. The
        trace stays. A second call does nothing.
        """
        if self._blocks is not None:
            self._blocks.release()
        for parameter in self._frozen_beside:
            parameter.requires_grad_(True)
        if self._input_gradients is not None:
            self._input_gradients.put_back()
        for handle in self._handles:
            handle.remove()
        # Last, so that a second call finishes what Ctrl-C has cut short.
        self._blocks, self._input_gradients, self._frozen_beside, self._handles = None, None, [], []
        self._stage = "idle"

    def state(self) -> dict[str, Any]:
        """What the Trainer writes into its checkpoints."""
        return {"args": self._settings(), "attributes": {"saved": self._progress()}}

    # Events of the Trainer.

    def on_init_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Refuse what can be refused before any training."""
        self.release()
        if model is not None:
            self._check_trainer(args, model, None)

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any
    ) -> None:
        """Find the blocks, and go on from a checkpoint if the Trainer does."""
        self.release()
        self._check_trainer(args, model, optimizer)
        if not at_end_of_training(self.release):
            logger.warning(
                "IRTuningCallback: this training does not run inside transformers.Trainer.train, so an exception in it "
                "leaves blocks frozen; call the callback's release() after one"
            )
        self._input_gradients = InputGradients(model)
        self._frozen_beside = [] if self.train_head else head_parameters(model)
        self._frozen_beside += [] if self.train_embeddings else embedding_parameters(model)
        for parameter in self._frozen_beside:
            parameter.requires_grad_(False)
        found = map_parameters(model, leave_out_frozen=True)
        self.blocks_name = found.name
        self._blocks = TorchBlocks(
            model,
            found,
            innermost_optimizer(optimizer),
            scaler=getattr(optimizer, "scaler", None),
            frozen_state=self.frozen_state,
        )
        if self.compile is not None:
            self._blocks.compiled = CompiledBlocks(self._blocks.members)
            self._compiled_is_checked, self._computes_in_half = False, bool(args.bf16 or args.fp16)
        self._controller = LayerController(
            self._blocks,
            len(found),
            policy_among(self.policy, found),
            signal_for(found, self.signal, self._finds_tensors),
            reselect_every=self.reselect_every,
            total_steps=state.max_steps,
            seed=args.seed if self.seed is None else self.seed,
            sinks=[MemoryTrace()],
            always_measure=self.measure == "always",
            reset_on_thaw=self.on_thaw == "reset",
            cost=StepCost.between(found.indices, found.num_in_model) if found.left_out else None,
            indices=found.indices,
            num_in_model=found.num_in_model,
            probe_memory=self.probe_memory,
        )
        self._seen = 0
        # Hooks go onto parameters that require gradients, and a resumed run freezes some.
        self._watch(model, found, optimizer)
        self._resume(state)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An optimizer step begins; its inputs are not known yet."""
        if self._blocks is not None:
            self._step, self._stage = state.global_step, "begun"

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make sure that the step went as the controller needs it."""
        if self._stage in ("begun", "forward"):
            missed = "calls the model itself" if self._stage == "begun" else "gives a block gradients"
            raise ValueError(
                f"IRTuningCallback: nothing in optimizer step {self._step} {missed}; compute_loss must call the model "
                "that it is given, in training mode, and its loss must depend on what trains"
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The step is over; evaluation may follow."""
        if self._blocks is not None and self._blocks.compiled is not None:
            self._blocks.compiled.look()
            self.compiled = self._blocks.compiled.in_words()
        self._stage = "idle"
        if self._controller is not None and self._seen < len(self.trace.records):
            self._show(is_over=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let go of the model."""
        self.release()
        if self._controller is not None and self.trace.records:
            self._show(is_over=True)

    def _show(self, *, is_over: bool) -> None:
        self._seen = len(self.trace.records)
        for viewer in self.viewers:
            viewer(is_over)

    # What the Trainer has no event for.

    def _watch(self, model: nn.Module, blocks: Blocks, optimizer: Any) -> None:
        accumulation = optimizer.gradient_state

        def before_forward(module: nn.Module, positional: Any, batch: dict[str, Any]) -> None:
            # The passes of a probe, of an evaluation and of later micro-batches come here too.
            if self._stage == "begun" and module.training and torch.is_grad_enabled():
                self._before_step(batch)

        def at_gradient(parameter: torch.Tensor) -> None:
            if self._stage == "forward" and accumulation.sync_gradients:
                self._stage = "backward"
                engine: Any = torch.autograd.Variable._execution_engine
                # DistributedDataParallel queues its last work during the pass, so ours is queued when that is over.
                engine.queue_callback(lambda: engine.queue_callback(self._after_backward))
            elif self._stage == "done" and self._gradients_counted:
                raise ValueError(
                    f"IRTuningCallback: a second backward pass in optimizer step {self._step}, after the gradients of "
                    "the first were read; add the losses and run one"
                )

        self._handles = [model.register_forward_pre_hook(before_forward, with_kwargs=True)]
        for _, parameter in blocks.all():
            watched: Any = parameter
            self._handles.append(watched.register_post_accumulate_grad_hook(at_gradient))

    def _check_trainer(self, args: Any, model: nn.Module, optimizer: Any) -> None:
        unused = _looks_for_unused(model)
        check_trainer(args, model, optimizer, unused_by_default=unused, compiles=self.compile is not None)

    def _before_step(self, batch: Mapping[str, Any]) -> None:
        assert self._blocks is not None
        self._stage = "forward"
        if self._blocks.compiled is not None and not self._compiled_is_checked:
            self._compiled_is_checked = True
            check_compiled(self._blocks, _examples(batch), halves=self._computes_in_half)
        self._blocks.start_step()
        self.controller.before_step(self._step, _examples(batch))

    def _after_backward(self) -> None:
        self._gradients_counted = self.controller.reads_gradients
        self.controller.after_backward(self._step)
        self._stage = "done"

    # Checkpoints.

    def _settings(self) -> dict[str, Any]:
        return {
            "policy": to_json(self.policy, POLICIES),
            "importance": self._importance(),
            "reselect_every": self.reselect_every,
            "measure": self.measure,
            "on_thaw": self.on_thaw,
            "frozen_state": self.frozen_state,
            **({} if self.compile is None else {"compile": self.compile}),
            "probe_memory": self.probe_memory,
            "train_embeddings": self.train_embeddings,
            "train_head": self.train_head,
            "seed": self.seed,
        }

    def _importance(self) -> dict[str, Any] | None:
        if self.signal is None:
            return None
        section = to_json(self.signal, SIGNALS)
        return {key: value for key, value in section.items() if key != "tensors" or not self._finds_tensors}

    def _progress(self) -> dict[str, Any] | None:
        if self._controller is None:
            return None
        return progress_of(self.controller, self.trace)

    def _resume(self, state: Any) -> None:
        name = type(self).__name__
        entry = state.stateful_callbacks.get(name)
        if isinstance(entry, list):
            raise ValueError(f"{name}: a Trainer takes one, and this one has {len(entry)}")
        # The Trainer looks for this entry when it saves, also in the state of a checkpoint from before the callback.
        state.stateful_callbacks[name] = self.state()
        saved = entry["attributes"]["saved"] if entry and state.global_step > 0 else None
        if saved is None:
            return
        if entry["args"] != self._settings():
            logger.warning("%s goes on with other settings than the checkpoint was written with", name)
        go_on(self.controller, self.trace, saved, name=name)
        if not self.reselect_every and saved["trace"]:
            # Chosen once is chosen, also where training now takes longer.
            self.controller.next_refresh = state.max_steps


def _interval(steps: Any) -> int:
    if not isinstance(steps, int) or steps < 0:
        raise ValueError(
            f"reselect_every: {steps!r} is no number of optimizer steps; give a count from 1, or 0 to choose once"
        )
    return steps


def _examples(batch: Mapping[str, Any]) -> Batch:
    """Of a forward pass's arguments the tensors whose first dimension is the example."""
    tensors = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor) and value.dim() > 0}
    rows = next((len(value) for value in tensors.values() if value.dim() > 1), 0)
    return {name: value for name, value in tensors.items() if len(value) == rows}


def _looks_for_unused(model: nn.Module) -> bool:
    """What the Trainer tells DistributedDataParallel about unused parameters if its arguments don't."""
    return not (isinstance(model, PreTrainedModel) and is_checkpointing(model))
