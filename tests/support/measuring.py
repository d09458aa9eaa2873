"""What DeepSpeedBlocks measures held against plain PyTorch on the batches of all ranks; run by test_measuring.py.

python tests/support/measuring.py WORLD_SIZE STAGES(JSON) OUT CLASS_WEIGHTS(JSON)
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tiny_models import NUM_BLOCKS, VOCABULARY, classifier

from irtune.config.engine_schema import EngineConfig
from irtune.config.schema import AdapterConfig, TrainingConfig
from irtune.importance import ActivationEnergy, CkaDistance, ResidualNorm
from irtune.layers import map_parameters
from irtune.layers.blocks import low_rank_pairs
from irtune.selection import Suppression
from irtune.training.adapter import add_adapter
from irtune.training.distributed import leave_process_group
from irtune.training.engine import DeepSpeedBlocks

ACCUMULATION = 2
PROBES = (Suppression((0, 2), 0.25), Suppression((1,), 0.0))


def make_model() -> Any:
    adapter = AdapterConfig(r=4, alpha=8, dropout=0.1, target_modules=("q_proj", "v_proj"))
    model = add_adapter(classifier("llama"), adapter, train_head=True, seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.train()


def batch(step: int, micro: int, rank: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 * step + 10 * micro + rank)
    ids = torch.randint(1, VOCABULARY, (4, 12), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, 8:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": ids[:, 0] % 3}


def without_dropout(model: Any) -> Any:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def loss_of(model: Any, each: dict[str, torch.Tensor], weights: list[float] | None) -> torch.Tensor:
    """The model's own loss, or that of plain PyTorch weighted by class."""
    if weights is None:
        return model(**each).loss
    losses = torch.nn.functional.cross_entropy(model(**each).logits, each["labels"], reduction="none")
    return (torch.tensor(weights)[each["labels"]] * losses).sum() / len(losses)


def make_blocks(stage: int, weights: list[float] | None, *, dropout: bool) -> DeepSpeedBlocks:
    model = make_model() if dropout else without_dropout(make_model())
    training = TrainingConfig(
        max_steps=4, micro_batch_size=4, gradient_accumulation_steps=ACCUMULATION, learning_rate=5e-3, weight_decay=0.05
    )
    class_weights = None if weights is None else np.array(weights)
    return DeepSpeedBlocks(model, map_parameters(model), training, EngineConfig(zero_stage=stage), class_weights)


def expected(world: int, weights: list[float] | None) -> dict[str, Any]:
    """The same figures from plain PyTorch."""
    model = without_dropout(make_model())
    blocks = map_parameters(model)

    def gradients(batches: list[dict[str, torch.Tensor]]) -> None:
        model.zero_grad()
        for each in batches:
            (loss_of(model, each, weights) / len(batches)).backward()

    def norms() -> dict[str, Any]:
        return {
            "all": [[float(p.grad.norm()) for _, p in block] for block in blocks.per_block],
            "effective_update": [
                [float((up.grad @ down + up @ down.grad).norm()) for down, up in low_rank_pairs(block)]
                for block in blocks.per_block
            ],
        }

    gradients([batch(0, micro, rank) for micro in range(ACCUMULATION) for rank in range(world)])
    found: dict[str, Any] = {"in_step": norms()}
    gradients([batch(7, 0, rank) for rank in range(world)])
    found["probe"] = norms()
    local = []
    for micro in range(ACCUMULATION):
        for rank in range(world):
            gradients([batch(0, micro, rank)])
            local.append(norms()["all"])
    # The engine divides each micro-batch's loss by their number, and local norms are averaged over ranks.
    found["local"] = (np.array(local).sum(0) / world / ACCUMULATION).tolist()
    sums = np.zeros((NUM_BLOCKS, 2))
    last: list[list[list[torch.Tensor]]] = [[[], []] for _ in range(NUM_BLOCKS)]
    entering: list[list[torch.Tensor]] = [[] for _ in range(NUM_BLOCKS)]
    with torch.no_grad():
        for rank in range(world):
            each = batch(7, 0, rank)
            hidden = model(**each, output_hidden_states=True).hidden_states
            # The last one has passed the final norm, so the last block is compared below from its own output.
            states = [*hidden[:-1], last_output(model, each)]
            for index in range(NUM_BLOCKS):
                cosine = torch.nn.functional.cosine_similarity(states[index], states[index + 1], dim=-1)
                sums[index] += [float((cosine * each["attention_mask"]).sum()), float(each["attention_mask"].sum())]
                for side in (0, 1):
                    at_end = states[index + side][torch.arange(4), each["attention_mask"].sum(1) - 1]
                    last[index][side].append(at_end.double())
                norm = model.get_base_model().model.layers[index].input_layernorm
                entering[index].append(norm(states[index])[each["attention_mask"] > 0].double())
        found["similarities"] = (sums[:, 0] / sums[:, 1]).tolist()
        found["cka_distances"] = [1 - cka(*map(torch.cat, sides)) for sides in last]
        found["energies"] = [float(torch.cat(rows).square().sum(1).mean()) for rows in entering]
        gradients_of_probe = [batch(7, 0, rank) for rank in range(world)]
    gradients(gradients_of_probe)
    with torch.no_grad():
        found["residual_norms"] = [
            residual_norm(blocks.per_block[index], torch.cat(entering[index])) for index in range(NUM_BLOCKS)
        ]
        losses = []
        for probe in PROBES:
            # Turning an adapter down by a factor is the same as turning its second matrix down.
            ups = [up for index in probe.blocks for _, up in low_rank_pairs(blocks.per_block[index])]
            before = [up.clone() for up in ups]
            for up in ups:
                up.mul_(probe.scale)
            losses.append(float(np.mean([float(loss_of(model, batch(7, 0, rank), weights)) for rank in range(world)])))
            for up, old in zip(ups, before, strict=True):
                up.copy_(old)
        found["suppressed_losses"] = losses
    return found


def cka(before: torch.Tensor, after: torch.Tensor) -> float:
    """Linear CKA by features."""
    before, after = before - before.mean(0), after - after.mean(0)
    norms = (before.T @ before).norm() * (after.T @ after).norm()
    return float((before.T @ after).norm() ** 2 / norms)


def residual_norm(block: Any, entering: torch.Tensor) -> float:
    """Root of the summed squares of ``G M^(-1/2)``; both layers of a block are called with ``entering``."""
    square = 0.0
    for down, up in low_rank_pairs(block):
        features = 2 * entering @ down.double().T  # alpha / r
        values, vectors = torch.linalg.eigh(features.T @ features / len(features))
        whitened = up.grad.double() @ vectors / (values + 1e-4 * values.mean()).sqrt()
        square += float(whitened.square().sum())
    return square**0.5


def last_output(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    outputs: list[Any] = []
    hook = model.get_base_model().model.layers[-1].register_forward_hook(lambda *call: outputs.append(call[2]))
    model(**inputs)
    hook.remove()
    return outputs[0][0] if isinstance(outputs[0], tuple) else outputs[0]


def measured(stage: int, class_weights: list[float] | None) -> dict[str, Any]:
    blocks = make_blocks(stage, class_weights, dropout=False)
    rank = dist.get_rank()
    blocks.record_local_norms()
    residual = ResidualNorm(damping=1e-4)
    residual.prepare(blocks)
    blocks.set_active([1, 3])
    found: dict[str, Any] = {}
    with blocks.probing(batch(7, 0, rank), gradients=True):
        found["probe"] = {kind: lists(blocks.gradient_norms(kind)) for kind in ("all", "effective_update")}
        found["residual_norms"] = residual.measure(blocks).tolist()
    with blocks.probing(batch(7, 0, rank), gradients=False):
        found["similarities"] = blocks.similarities().tolist()
        found["cka_distances"] = CkaDistance().measure(blocks).tolist()
        found["energies"] = ActivationEnergy().measure(blocks).tolist()
    found["suppressed_losses"] = blocks.suppressed_losses(PROBES, batch(7, 0, rank)).tolist()
    blocks.set_active(range(NUM_BLOCKS))
    blocks.train_step([batch(0, micro, rank) for micro in range(ACCUMULATION)])
    found["in_step"] = {kind: lists(blocks.gradient_norms(kind)) for kind in ("all", "effective_update")}
    found["local"] = lists(blocks.gradient_norms("all", "local"))
    blocks.destroy()
    return found


def lists(norms: list[np.ndarray]) -> list[list[float]]:
    return [block.tolist() for block in norms]


def trained(stage: int, class_weights: list[float] | None, *, probes: bool) -> dict[str, torch.Tensor]:
    """Weights after four steps with changing blocks and with dropout."""
    blocks, rank = make_blocks(stage, class_weights, dropout=True), dist.get_rank()
    torch.manual_seed(100 + rank)
    if probes:
        blocks.record_features()
    for step, active in enumerate(([0, 2], [0, 2], [1, 3], [3])):
        if probes:
            with blocks.probing(batch(50 + step, 0, rank), gradients=True):
                blocks.gradient_norms("all")
                blocks.low_rank_moments()
            with blocks.probing(batch(50 + step, 0, rank), gradients=False):
                blocks.similarities()
                blocks.token_states("last")
                blocks.activation_energies()
            blocks.suppressed_losses(PROBES, batch(50 + step, 0, rank))
            matrices = [[name for name, _ in blocks.weight_matrices(index)] for index in range(NUM_BLOCKS)]
            assert matrices == [matrices[0]] * NUM_BLOCKS
            assert len(matrices[0]) == 7, matrices[0]
        blocks.set_active(active)
        blocks.train_step([batch(step, micro, rank) for micro in range(ACCUMULATION)])
        blocks.optimizer_step()
    blocks.set_active(range(NUM_BLOCKS))
    parameters = dict(blocks.blocks.all())
    with blocks.gathered(list(parameters.values())):
        weights = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    blocks.destroy()
    return weights


def steps_after_reset(stage: int, weights: list[float] | None) -> list[float]:
    """Step counts of the blocks after three steps, two of them reset."""
    blocks, rank = make_blocks(stage, weights, dropout=False), dist.get_rank()
    for step in range(3):
        blocks.train_step([batch(step, micro, rank) for micro in range(ACCUMULATION)])
        blocks.optimizer_step()
    blocks.reset_optimizer_state([0, 3])
    counts = []
    for index in range(NUM_BLOCKS):
        tensors = [tensor for block, tensor, _ in blocks.stepped() if block == index]
        states = [blocks.base_optimizer.state[tensor] for tensor in tensors]
        counts.append(max(float(state["step"]) for state in states))
        forgotten = all(float(state[name].abs().sum()) == 0 for state in states for name in ("exp_avg", "exp_avg_sq"))
        assert forgotten == (index in (0, 3)) or not any(tensor.numel() for tensor in tensors)
    blocks.destroy()
    return counts


def main(rank: int, world: int, store: str, stages: list[int], out: str, weights: list[float] | None) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT="0"
    )
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    results = {}
    for stage in stages:
        plain, probed = trained(stage, weights, probes=False), trained(stage, weights, probes=True)
        results[stage] = {
            "measured": measured(stage, weights),
            "trace_of_probes": max(float((plain[name] - probed[name]).abs().max()) for name in plain),
            "steps_after_reset": steps_after_reset(stage, weights),
        }
    if rank == 0:
        Path(out).write_text(json.dumps({"expected": expected(world, weights), "stages": results}))
    dist.barrier()
    leave_process_group()


if __name__ == "__main__":
    os.environ["DS_ACCELERATOR"] = "cpu"
    world, stages, out, weights = int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
    torch.multiprocessing.spawn(main, args=(world, f"{out}.store", stages, out, weights), nprocs=world)
