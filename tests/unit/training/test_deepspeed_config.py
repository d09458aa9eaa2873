"""What DeepSpeed is told: irtune's own settings, raw ones merged over them, contradictions refused."""

import copy

import pytest
from saying import refused, says

from irtune.config.engine_schema import EngineConfig
from irtune.config.schema import TrainingConfig
from irtune.training.deepspeed_config import deepspeed_config


def config_of(raw, **engine):
    return deepspeed_config(TrainingConfig(), EngineConfig(deepspeed=raw, **engine))


def test_settings_are_passed_on():
    training = TrainingConfig(micro_batch_size=3, gradient_accumulation_steps=5, max_grad_norm=0.7)
    config = deepspeed_config(training, EngineConfig(zero_stage=2))
    assert config["train_micro_batch_size_per_gpu"] == 3
    assert config["gradient_accumulation_steps"] == 5
    assert config["gradient_clipping"] == 0.7
    assert config["zero_optimization"] == {"stage": 2}
    assert not {"fp16", "bf16"} & set(config)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_switched_on(precision):
    assert config_of({}, precision=precision, gpus_per_worker=1, zero_stage=1)[precision] == {"enabled": True}


def test_raw_settings_are_merged_into_sections():
    raw = {
        "zero_optimization": {"overlap_comm": True, "offload_optimizer": {"device": "none"}},
        "bf16": {"immediate_grad_update": True},
        "wall_clock_breakdown": True,
        "steps_per_print": 10,
    }
    before = copy.deepcopy(raw)
    config = config_of(raw, zero_stage=3, precision="bf16")
    assert config["zero_optimization"] == {"stage": 3, "overlap_comm": True, "offload_optimizer": {"device": "none"}}
    assert config["bf16"] == {"enabled": True, "immediate_grad_update": True}
    assert config["wall_clock_breakdown"] is True
    assert config["steps_per_print"] == 10
    assert raw == before


def test_contradictions_are_listed_all_together_with_what_to_set_instead():
    raw = {
        "train_micro_batch_size_per_gpu": 2,
        "train_batch_size": 16,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 0.1,
        "optimizer": {"type": "Adam"},
        "scheduler": {"type": "WarmupLR"},
        "fp16": {"enabled": True},
        "bf16": {"enabled": False},
        "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}},
        "data_types": {"grad_accum_dtype": "fp32"},
        "wall_clock_breakdown": True,
    }
    with pytest.raises(ValueError, match=r"^engine\.deepspeed\.") as caught:
        config_of(raw)
    lines = [line.partition(": ") for line in str(caught.value).splitlines()]
    remedies = {key.removeprefix("engine.deepspeed."): remedy for key, _, remedy in lines}
    expected = {
        "train_micro_batch_size_per_gpu": ("set training.micro_batch_size",),
        "train_batch_size": ("set training.micro_batch_size", "training.gradient_accumulation_steps"),
        "gradient_accumulation_steps": ("set training.gradient_accumulation_steps",),
        "gradient_clipping": ("set training.max_grad_norm",),
        "optimizer": ("set training.learning_rate",),
        "scheduler": ("set training.lr_schedule",),
        "fp16.enabled": ("set engine.precision",),
        "bf16.enabled": ("set engine.precision",),
        "zero_optimization.stage": ("set engine.zero_stage",),
        "zero_optimization.offload_optimizer": ("offloading the optimizer … not supported",),
        "data_types.grad_accum_dtype": ("gradients … not read per block",),
    }
    assert remedies.keys() == expected.keys()
    assert all(says(remedies[key], *facts) for key, facts in expected.items())


@pytest.mark.parametrize("section", ["zero_optimization", "fp16", "bf16", "data_types"])
def test_a_section_that_is_none_is_refused_by_name(section):
    with refused(ValueError, f"engine.deepspeed.{section}: … section … not 2"):
        config_of({section: 2})
