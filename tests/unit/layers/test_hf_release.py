"""However training ends, the model is as the user had it, and the next Trainer trains all that it may."""

import random

import hf_training
import pytest
import torch
from hf_training import Scheduled
from saying import says
from transformers import Trainer, TrainerCallback

from irtune import IRTuningCallback
from irtune.layers.hf_checks import InputGradients
from irtune.layers.hf_release import at_end_of_training, watch_training


class Breaks(TrainerCallback):
    """Raises at an event of one step, once."""

    def __init__(self, event, error, at_step=1):
        self.event, self.error, self.at_step = event, error, at_step
        setattr(self, event, self.raise_it)

    def raise_it(self, args, state, control, **kwargs):
        if self.error is not None and state.global_step >= self.at_step:
            error, self.error = self.error, None
            raise error


class Looks(TrainerCallback):
    """Notes which parameters are frozen at the end of every step."""

    def __init__(self):
        self.frozen = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.frozen.append([name for name, p in model.named_parameters() if not p.requires_grad])


def trainer_of(model, folder, callbacks=(), trainer_class=Trainer, **options):
    return trainer_class(
        model,
        hf_training.arguments(folder, max_steps=3, gradient_accumulation_steps=1, **options),
        train_dataset=hf_training.make_data(),
        eval_dataset=hf_training.make_data(4),
        data_collator=hf_training.collate,
        callbacks=list(callbacks),
    )


def hooks_of(model):
    """How many hooks there are on the model, its modules and its parameters."""
    modules = [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()]
    parameters = [len(p._post_accumulate_grad_hooks or ()) + len(p._backward_hooks or ()) for p in model.parameters()]
    return sum(modules) + sum(parameters)


def what_a_user_sees(model):
    """What training must leave alone: what trains, hooks, dropout, and the mode of every module."""
    dropouts = [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    return [(n, p.requires_grad) for n, p in model.named_parameters()], hooks_of(model), dropouts


def assert_next_trainer_trains_everything(model, folder):
    before = hf_training.weights(model)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    trainer_of(model, folder, learning_rate=0.1, max_grad_norm=1.0).train()
    assert {name for name, p in model.named_parameters() if not torch.equal(p, before[name])} == trainable


EVENTS = ["on_train_begin", "on_step_begin", "on_pre_optimizer_step", "on_step_end", "on_evaluate", "on_train_end"]


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()], ids=["exception", "ctrl_c"])
@pytest.mark.parametrize("event", EVENTS)
def test_the_model_is_let_go_wherever_training_breaks(event, error, tmp_path):
    model = hf_training.make_model("full", dropout=0.1)
    model.lm_head.weight.requires_grad_(False)
    found = what_a_user_sees(model)
    callback = IRTuningCallback("top_k", k=1, reselect_every=2, train_embeddings=False)
    broken = Breaks(event, error, 0 if event == "on_train_begin" else 1)
    # Before and after the callback.
    callbacks = [broken, callback] if event == "on_train_end" else [callback, broken]
    trainer = trainer_of(model, tmp_path, callbacks, eval_strategy="steps", eval_steps=1)
    with pytest.raises(type(error)) as kept:
        trainer.train()
    assert kept.tb is not None
    assert what_a_user_sees(model) == found
    assert not trainer.optimizer.optimizer._optimizer_step_pre_hooks
    assert not trainer.optimizer.optimizer._optimizer_step_post_hooks
    assert_next_trainer_trains_everything(model, tmp_path)


class NoData(Trainer):
    def training_step(self, *args, **kwargs):
        if self.state.global_step == 1:
            raise OSError("the disk is gone")
        return super().training_step(*args, **kwargs)


class OwnTrain(Trainer):
    def train(self, *args, **kwargs):
        return super().train(*args, **kwargs)


@pytest.mark.parametrize("importance", [None, {"name": "gradient_norm", "tensors": "all", "gradient": "local"}])
def test_what_breaks_inside_a_step_lets_go_too(importance, tmp_path):
    model = hf_training.make_model()
    found = what_a_user_sees(model)
    callback = IRTuningCallback("top_k", k=1, importance=importance)
    with pytest.raises(OSError, match="the disk is gone"):
        trainer_of(model, tmp_path, [callback], NoData).train()
    assert what_a_user_sees(model) == found
    assert len(callback.trace.records) == 1
    assert_next_trainer_trains_everything(model, tmp_path)


def test_a_probe_that_breaks_leaves_modes_and_random_generators(tmp_path):
    class ProbeError(RuntimeError):
        pass

    def breaks(module, inputs):
        if callback._blocks is not None and callback._blocks._probe_batch is not None:
            states.append((random.getstate(), module.training))
            random.random()
            raise ProbeError

    states, model = [], hf_training.make_model("full")
    callback = IRTuningCallback("top_k", k=1, importance="cosine_similarity")
    handle = model.model.layers[2].register_forward_pre_hook(breaks)
    with pytest.raises(ProbeError):
        trainer_of(model, tmp_path, [callback]).train()
    handle.remove()
    assert random.getstate() == states[0][0]
    assert not states[0][1]
    assert model.training
    assert hooks_of(model) == 0


def test_a_callback_that_was_added_later_or_taken_out_lets_go(tmp_path):
    class TakesOut(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            trainer.pop_callback(IRTuningCallback)
            raise RuntimeError("broken")

    model = hf_training.make_model()
    found = what_a_user_sees(model)
    trainer = trainer_of(model, tmp_path, trainer_class=OwnTrain)
    trainer.add_callback(IRTuningCallback("top_k", k=1))
    trainer.add_callback(TakesOut())
    with pytest.raises(RuntimeError, match="broken"):
        trainer.train()
    assert what_a_user_sees(model) == found


def test_a_reused_callback_and_trainer_train_as_new_ones(tmp_path):
    model, fresh = hf_training.make_model(), hf_training.make_model()
    callback, broken = IRTuningCallback(Scheduled(), reselect_every=3), Breaks("on_pre_optimizer_step", OSError(), 0)
    trainer = trainer_of(model, tmp_path, [callback, broken])
    with pytest.raises(OSError):  # noqa: PT011
        trainer.train()
    trainer_of(model, tmp_path, [callback]).train()
    trainer_of(fresh, tmp_path, [IRTuningCallback(Scheduled(), reselect_every=3)]).train()
    assert hf_training.same(hf_training.weights(model), hf_training.weights(fresh))
    trainer.train()
    assert [record.step for record in callback.trace.records] == [0]


def test_a_second_try_after_a_lack_of_memory_starts_with_every_block(tmp_path):
    class TooMuch(Trainer):
        def training_step(self, *args, **kwargs):
            if self.state.global_step == 1 and self._train_batch_size == 4:
                tried.append(sum(p.requires_grad for p in self.model.parameters()))
                raise RuntimeError("CUDA out of memory.")
            return super().training_step(*args, **kwargs)

        def create_optimizer(self, *args, **kwargs):
            tried.append(sum(p.requires_grad for p in self.model.parameters()))
            return super().create_optimizer(*args, **kwargs)

    tried = []
    callback = IRTuningCallback("top_k", k=1, reselect_every=2)
    trainer_of(hf_training.make_model(), tmp_path, [callback], TooMuch, auto_find_batch_size=True).train()
    assert tried == [16, 4, 16]
    assert [record.step for record in callback.trace.records] == [0, 2]


def test_release_may_be_called_at_any_time_and_twice(tmp_path):
    class Releases(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 1:
                first.release()

    model = hf_training.make_model()
    found = what_a_user_sees(model)
    first, looks = IRTuningCallback("top_k", k=1), Looks()
    first.release()
    trainer_of(model, tmp_path, [first, looks, Releases()]).train()
    # Looked at before it was called in the first step; from then on every block trains.
    frozen = [len([name for name in names if "lora" in name]) for names in looks.frozen]
    assert frozen == [12, 0, 0]
    assert what_a_user_sees(model) == found

    class ReleasesTheFirst(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            first.release()

    second, looks = IRTuningCallback("top_k", k=1), Looks()
    trainer_of(model, tmp_path, [second, looks, ReleasesTheFirst()]).train()
    assert [len([name for name in names if "lora" in name]) for names in looks.frozen] == [12] * 3
    second.release()
    second.release()
    assert what_a_user_sees(model) == found


def test_hooks_that_reentrant_checkpointing_needs_are_put_back(tmp_path):
    model = hf_training.make_model()
    model.enable_input_require_grads()
    found = what_a_user_sees(model)
    assert found[1] > 0
    trainer_of(model, tmp_path, [IRTuningCallback("top_k", k=1)]).train()
    assert what_a_user_sees(model) == found
    dropped = InputGradients(model)
    assert hooks_of(model) == 0
    dropped.put_back()
    model.disable_input_require_grads()
    assert hooks_of(model) == 0


def test_training_that_nobody_watches_is_said(tmp_path, caplog):
    class Unwatched(Trainer):
        def train(self, **kwargs):
            self.create_optimizer()
            self.optimizer = self.accelerator.prepare(self.optimizer)
            self.callback_handler.optimizer = self.optimizer
            self.control = self.callback_handler.on_train_begin(self.args, self.state, self.control)

    model, callback = hf_training.make_model(), IRTuningCallback("top_k", k=1)
    trainer_of(model, tmp_path, [callback], Unwatched).train()
    assert says(caplog.text, "release()")
    assert hooks_of(model) > 0
    # Another Trainer for the same callback lets go as well.
    trainer_of(hf_training.make_model(), tmp_path, [callback])
    assert hooks_of(model) == 0


def test_training_is_watched_once_and_from_the_inside():
    undone = []

    class Own:
        def train(self, inner=None):
            assert at_end_of_training(lambda: undone.append(self))
            if inner:
                inner.train()
                assert undone == [inner]
            return 1

    train = Own.train
    watch_training(Own)
    watched = Own.train
    watch_training(Own)
    assert Own.train is watched
    assert watched.__wrapped__ is train
    outer, inner = Own(), Own()
    assert outer.train(inner) == 1
    assert undone == [inner, outer]
    assert not at_end_of_training(list)
