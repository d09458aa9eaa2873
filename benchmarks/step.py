"""What a training step costs: irtune's own beside a Hugging Face Trainer's with PEFT, each in turn, in one process.

    python benchmarks/step.py [--quick] [--device cuda] [--model smollm2-135m|tiny|8b-blocks] [--precision fp32|bf16]

| contender | what it is |
|---|---|
| Trainer | PEFT as people use it: batches of like lengths, padded to their longest; ``layers_to_transform`` |
| Trainer, padded | the same, every input padded to 256 tokens |
| LISA callback | a Trainer whose callback draws two blocks anew, as LMFlow's does: requires_grad and nothing else |
| plug-in | ``IRTuningCallback`` in a Trainer |
| irtune | the loop that trials run in, as it is by default; ``states kept``: with ``engine.prefix_cache: true`` |

Every round takes one step of each, beginning with another one, on the same batches from the same weights. Ratios are
medians over rounds of a contender's time to that of ``Trainer, all`` in the same round, and likewise of CPU time, which
other programs of the machine lengthen less. ``FLOPs`` are the closed form's, as a part of a step of all blocks, and
``distance`` is the time ratio to irtune's own ``all`` over that: 1 where time goes with FLOPs. Three more steps of each
are looked into, the last of them a refresh: how long forward pass, backward pass, optimizer and selection take, and
what the forward pass keeps for the backward pass. ``peak`` is what a GPU's allocator held at most beyond what it held
before the step.

On a CPU that multiplies bf16, irtune's contenders run in it, too (``…, bf16``), beside all of them in fp32.
``8b-blocks`` has four random blocks of an 8B Llama's shape. ``--quick`` takes few rounds. ``--argrewrite`` takes real
revisions with their instruction, for which there are goals of time and memory. PASS says that every goal printed is
held: at least that irtune's losses are the Trainer's, and that its step with all blocks is not slower. The last line is
everything as JSON.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from gpu_contenders import (
    RESELECT_EVERY,
    Bench,
    LoopSteps,
    Setting,
    TrainerSteps,
    loop_steps,
    make_trainer,
    outside_a_process_group,
)
from gpu_steps import largest_difference, synchronized
from kept_bytes import addresses, kept_storages, num_bytes
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

import irtune
from irtune.config.load import with_overrides
from irtune.config.schema import ModelConfig
from irtune.layers.blocks import find_blocks
from irtune.processor import multiplies_bf16
from irtune.studies.provenance import environment
from irtune.training.pretrained import materialize
from irtune.training.tokenizer import load_tokenizer

KINDS = ("all", "last third", "ir", "cost_aware", "lisa")
BASE, OWN = "Trainer, all", "irtune, all"
WARM_UP, LOOKED_INTO = 2, 3
LISA_BLOCKS = 2
PADDED = {"tiny": 1024}
"""Tokens of a padded input where it is not 256: the tiny model reads bytes."""
FASTER = ", bf16"
"""Behind the name of a contender in the precision of ``engine.precision: auto``, beside others in fp32."""
BATCH = {"cpu": 4, "cuda": 16}
LOSSES = {"fp32": 1e-3, "bf16": 0.2}
"""Largest relative difference of a loss to the Trainer's. In bf16 the Trainer has fp32 weights under autocast."""
MOST_TIME = 1.05
MOST_KEPT = 1.2
KEPT = "last third, states kept"
"""Where ``engine.prefix_cache`` has kept what enters the last third, as from the second epoch or trial on."""
TIMES = {
    OWN: 0.56,
    OWN + FASTER: 0.3,
    f"irtune, last third{FASTER}": 0.18,
    f"irtune, {KEPT}{FASTER}": 0.11,
}
"""Most time to a step of ``BASE`` on revisions of ArgRewrite with their instruction, on two cores."""
OWN_COST_AWARE = "irtune, cost_aware"
PHASES = ("forward", "backward", "optimizer", "selection")


class Lisa(TrainerCallback):  # type: ignore[misc]
    """LISA as a callback of one's own: ``requires_grad`` of all blocks but a few is off until the next draw."""

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **options: Any) -> None:
        """Draw anew at every refresh."""
        if state.global_step % RESELECT_EVERY:
            return
        members = find_blocks(model)[1]
        drawn = np.random.choice(len(members), LISA_BLOCKS, replace=False)
        for index, member in enumerate(members):
            for name, parameter in member.named_parameters():
                if "lora_" in name:
                    parameter.requires_grad_(index in drawn)


@dataclass
class Inside:
    """What a step is made of, read by wrapping what it calls; only while ``looks``.

    Args:
        device: That is synchronised at every border.
        seconds: By phase, each without the phases inside of it.
        saved_bytes: What the last forward pass kept, parameters left out and views counted once.
    """

    device: str
    seconds: Counter[str] = field(default_factory=Counter)
    saved_bytes: int = 0
    looks: bool = False
    _phases: list[str] = field(default_factory=list)
    _since: float = 0.0

    def watch(self, owner: Any, name: str, phase: str, parameters: Sequence[torch.Tensor] = ()) -> None:
        """Take the time of ``owner.name`` for ``phase``; of a forward pass also what it keeps."""
        original: Callable[..., Any] = getattr(owner, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            if not self.looks:
                return original(*arguments, **options)
            with self._in(phase), self._counted(parameters) if parameters else ExitStack():
                return original(*arguments, **options)

        setattr(owner, name, watched)

    @contextmanager
    def _in(self, phase: str) -> Iterator[None]:
        self._charge()
        self._phases.append(phase)
        try:
            yield
        finally:
            self._charge()
            self._phases.pop()

    def _charge(self) -> None:
        now = synchronized(self.device)
        if self._phases:
            self.seconds[self._phases[-1]] += now - self._since
        self._since = now

    @contextmanager
    def _counted(self, parameters: Sequence[torch.Tensor]) -> Iterator[None]:
        with kept_storages(addresses(parameters)) as kept:
            yield
        self.saved_bytes = num_bytes(kept)


class Contender:
    """Takes single steps, and notes what each of them took."""

    def __init__(self, steps: "TrainerSteps | LoopSteps", callback: Any, device: str) -> None:
        self.steps, self.device, self.inside = steps, device, Inside(device)
        self._callback = callback
        self.wall_s: list[float] = []
        self.cpu_s: list[float] = []
        self.flops: list[float] = []
        self.peak_bytes: list[int] = []

    def step(self) -> None:
        """One optimizer step."""
        before = self._flops()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
        started, cpu = synchronized(self.device), time.process_time()
        self.steps.step()
        self.wall_s.append(synchronized(self.device) - started)
        self.cpu_s.append(time.process_time() - cpu)
        self.flops.append(self._flops() - before)
        if self.device == "cuda":
            self.peak_bytes.append(torch.cuda.max_memory_allocated() - held)

    def look_inside(self) -> None:
        """From now on, look into every step."""
        inside, steps = self.inside, self.steps
        if isinstance(steps, LoopSteps):
            blocks, controller = steps.loop.blocks, steps.loop.controller
            inside.watch(blocks, "_loss_of", "forward", list(blocks.model.parameters()))
            inside.watch(blocks.engine, "backward", "backward")
            inside.watch(blocks, "optimizer_step", "optimizer")
        else:
            trainer, controller = steps.trainer, getattr(self._callback, "controller", None)
            inside.watch(trainer, "compute_loss", "forward", list(trainer.model.parameters()))
            inside.watch(trainer.accelerator, "backward", "backward")
            inside.watch(trainer.optimizer, "step", "optimizer")
        if controller is not None:
            inside.watch(controller, "before_step", "selection")
            inside.watch(controller, "after_backward", "selection")
        inside.looks = True

    def _flops(self) -> float:
        return self.steps.flops if isinstance(self.steps, LoopSteps) else 0.0


@contextmanager
def contenders(bench: Bench, kinds: Sequence[str]) -> Iterator[dict[str, Contender]]:
    """All of them by name, ready for their first step."""
    every = range(bench.num_blocks)
    trainers: list[tuple[str, Sequence[int], int | None, Any]] = [
        (BASE, every, None, None),
        ("Trainer, last third", every[-bench.third :], None, None),
        ("Trainer, padded", every, PADDED.get(bench.config.model.name.removesuffix("-random"), 256), None),
        ("LISA callback", every, None, Lisa()),
        *(
            (f"plug-in, {kind}", every, None, plug_in(bench, kind))
            for kind in kinds
            if kind not in ("all", "last third")
        ),
    ]
    found: dict[str, Contender] = {}
    with ExitStack() as stack:
        for name, adapted, pad_to, callback in trainers:
            found[name] = Contender(
                stack.enter_context(trainer_steps(bench, adapted, pad_to, callback)), callback, bench.device
            )
        for precision in ("", FASTER) if has_faster(bench) else ("",):
            engine: dict[str, Any] = {"precision": "bf16"} if precision else {}
            ways = [(kind, kind, engine) for kind in kinds]
            ways += [(KEPT, "last third", {**engine, "prefix_cache": True})] if "last third" in kinds else []
            for name, kind, settings in ways:
                steps = stack.enter_context(loop_steps(bench, kind, **settings))
                found[f"irtune, {name}{precision}"] = Contender(steps, None, bench.device)
        yield found


def has_faster(bench: Bench) -> bool:
    """Tell whether there is a quicker precision to try beside the one that all share."""
    return bench.device == "cpu" and bench.config.engine.precision == "fp32" and multiplies_bf16()


def plug_in(bench: Bench, kind: str) -> Any:
    """The callback that makes a kind of choice."""
    options = {"budget": bench.budget} if kind == "cost_aware" else {}
    return irtune.IRTuningCallback(kind, reselect_every=RESELECT_EVERY, **options)


@contextmanager
def trainer_steps(bench: Bench, adapted: Sequence[int], pad_to: int | None, callback: Any) -> Iterator[TrainerSteps]:
    """A Trainer, with the same weights at the start as irtune's."""
    others = [] if callback is None else [callback]
    with outside_a_process_group():
        steps = TrainerSteps(lambda turns: make_trainer(bench, adapted, [*others, turns], pad_to))
    try:
        yield steps
    finally:
        steps.close()


def measure(bench: Bench, kinds: Sequence[str], rounds: int) -> dict[str, dict[str, Any]]:
    """What there is to say of each contender."""
    with contenders(bench, kinds) as ready, outside_a_process_group():
        names = list(ready)
        for number in range(WARM_UP + rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                ready[name].step()
        looked = {name: look_into(contender) for name, contender in ready.items()}
        losses = {name: contender.steps.losses for name, contender in ready.items()}
        timed = slice(WARM_UP, WARM_UP + rounds)
        real = [int(bench.rows.lengths[batch].sum()) for batch in bench.batches][timed]
        base = ready[BASE]
        return {
            name: row_of(each, base, own_of(name, ready), twin_of(name, ready), timed, sum(real))
            | looked[name]
            | {"loss_difference": largest_difference(losses[BASE], losses[name])}
            for name, each in ready.items()
        }


def own_of(name: str, ready: Mapping[str, Contender]) -> Contender:
    """irtune with all blocks, in the precision of the contender of this name."""
    return ready[OWN + FASTER * name.endswith(FASTER)]


def twin_of(name: str, ready: Mapping[str, Contender]) -> Contender | None:
    """irtune's contender that trains the same blocks; draws and what a plug-in knows of costs are others."""
    who, _, kind = name.partition(", ")
    if who == "irtune":
        return ready[name]
    is_drawn = who == "plug-in" and kind != "ir"
    return None if is_drawn else ready.get(f"irtune, {kind}")


def look_into(contender: Contender) -> dict[str, Any]:
    """Phases of ordinary steps and of a refresh, and what their forward passes keep."""
    contender.look_inside()
    for _ in range(LOOKED_INTO - 1):
        contender.step()
    ordinary, saved = Counter(contender.inside.seconds), contender.inside.saved_bytes
    contender.step()
    refresh = contender.inside.seconds - ordinary
    contender.inside.looks = False
    peaks = contender.peak_bytes[-LOOKED_INTO:]
    return {
        **{f"{phase}_s": ordinary[phase] / (LOOKED_INTO - 1) for phase in PHASES[:3]},
        "selection_s": refresh["selection"],
        "saved_bytes": saved,
        "saved_at_refresh_bytes": contender.inside.saved_bytes,
        "peak_bytes": max(peaks[:-1], default=None),
        "peak_at_refresh_bytes": peaks[-1] if peaks else None,
    }


def row_of(
    each: Contender, base: Contender, own: Contender, twin: Contender | None, timed: slice, tokens: int
) -> dict[str, Any]:
    """Times of one contender; a plug-in's or Trainer's FLOPs are those of irtune's ``twin``."""

    def ratios(name: str, of: Contender, to: Contender) -> list[float]:
        return [one / other for one, other in zip(getattr(of, name)[timed], getattr(to, name)[timed], strict=True)]

    time_ratios = ratios("wall_s", each, base)
    row = {
        "median_s": statistics.median(each.wall_s[timed]),
        "time_ratio": statistics.median(time_ratios),
        "time_ratio_quartiles": statistics.quantiles(time_ratios, n=4),
        "cpu_ratio": statistics.median(ratios("cpu_s", each, base)),
        "real_tokens_per_s": tokens / sum(each.wall_s[timed]),
        "flops_ratio": None,
        "distance": None,
    }
    if twin is not None:
        flops = ratios("flops", twin, own)
        to_own = zip(ratios("wall_s", each, own), flops, strict=True)
        row["flops_ratio"] = statistics.median(flops)
        row["distance"] = statistics.median(time / part for time, part in to_own)
    return row


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A line per contender, as Markdown."""
    head = ["contender", "ms", "time / Trainer, all", "quartiles", "CPU time", "FLOPs / all", "distance", "tokens/s"]
    head += [f"{phase}, ms" for phase in PHASES] + ["kept, MiB", "at a refresh", "peak, MiB", "at a refresh"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, row in rows.items():
        low, _, high = row["time_ratio_quartiles"]
        values = [
            name,
            f"{row['median_s'] * 1e3:.1f}",
            f"{row['time_ratio']:.3f}",
            f"{low:.3f}-{high:.3f}",
            f"{row['cpu_ratio']:.3f}",
            *("" if row[key] is None else f"{row[key]:.3f}" for key in ("flops_ratio", "distance")),
            f"{row['real_tokens_per_s']:.0f}",
            *(f"{row[f'{phase}_s'] * 1e3:.1f}" for phase in PHASES),
            *(mebibytes(row[key]) for key in ("saved_bytes", "saved_at_refresh_bytes")),
            *(mebibytes(row[key]) for key in ("peak_bytes", "peak_at_refresh_bytes")),
        ]
        lines.append("| " + " | ".join(values) + " |")
    return "\n".join(lines)


def mebibytes(size: float | None) -> str:
    """For the table; empty where it was not measured."""
    return "" if size is None else f"{size / 2**20:.0f}"


def blocks_like_8b(folder: Path) -> Path:
    """A checkpoint of four random blocks of an 8B Llama's shape, over bytes."""
    tiny = materialize(ModelConfig(name="tiny-random"))
    tokenizer = load_tokenizer(tiny)
    shape = {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8}
    config = LlamaConfig(num_hidden_layers=4, vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=1, **shape)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Goal:
    """What is to hold: ``found`` is at most ``most``."""

    about: str
    found: float
    most: float

    @property
    def is_held(self) -> bool:
        """Tell whether it holds; what is not a number does not."""
        return self.found <= self.most


def goals(rows: Mapping[str, Mapping[str, Any]], options: argparse.Namespace) -> list[Goal]:
    """What is asked of every run, and of one on ArgRewrite with its instruction, on two cores."""
    found = [Goal(f"time of {OWN} to {BASE}", rows[OWN]["time_ratio"], options.most_time)]
    if options.dropout == 0:
        about = f"relative difference of a loss, {OWN} to {BASE}"
        found.append(Goal(about, rows[OWN]["loss_difference"], LOSSES[options.precision]))
    if (
        options.argrewrite is None
        or options.no_instruction
        or (options.model, options.precision) != ("smollm2-135m", "fp32")
    ):
        return found
    for name, most in TIMES.items():
        if name in rows:
            found.append(Goal(f"time of {name} to {BASE}", rows[name]["time_ratio"], most))
    for name, row in rows.items():
        if name.startswith("irtune, "):
            found.append(Goal(f"distance of {name}", row["distance"], MOST_TIME))
            kept = row["saved_at_refresh_bytes"] / row["saved_bytes"]
            found.append(Goal(f"kept at a refresh of {name} to an ordinary step", kept, MOST_KEPT))
    if OWN_COST_AWARE in rows:
        part = rows[OWN_COST_AWARE]["time_ratio"] / rows[OWN]["time_ratio"]
        found.append(Goal(f"time of {OWN_COST_AWARE} to {OWN}", part, 0.6))
    return found


def rounds_of(options: argparse.Namespace) -> int:
    """So many rounds that the last step that is looked into is a refresh."""
    wanted = options.rounds or (16 if options.quick else 36)
    return int(wanted + -(WARM_UP + wanted + LOOKED_INTO - 1) % RESELECT_EVERY)


def main() -> int:
    """Print the table, and everything as JSON in the last line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", default="smollm2-135m", help="smollm2-135m, tiny, 8b-blocks, or a folder")
    parser.add_argument("--precision", choices=tuple(LOSSES), default="fp32")
    parser.add_argument("--batch", type=int, help="examples of a step; by default 4, on a GPU 16")
    parser.add_argument("--dropout", type=float, default=0.0, help="of adapters; losses are compared at 0 alone")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="what irtune trains")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--argrewrite", type=Path, help="folder of ArgRewrite V.2, to hold the goals on its revisions")
    parser.add_argument("--no-instruction", action="store_true", help="ask nothing of these")
    parser.add_argument(
        "--settings", nargs="*", default=[], metavar="KEY=VALUE", help="of irtune: engine.share_prefix=…"
    )
    parser.add_argument("--most-time", type=float, default=MOST_TIME, help="of irtune's step, all blocks, to pass")
    parser.add_argument("--out", type=Path, help="write what was found as JSON, too")
    options = parser.parse_args()
    kinds = ["all", *(kind for kind in options.kinds if kind != "all")]
    rounds = rounds_of(options)
    # Threads that are begun later have as many.
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        if options.model == "8b-blocks":
            options.model = str(blocks_like_8b(Path(folder) / "model"))
        setting = Setting(options.precision, options.batch or BATCH[options.device])
        # A Trainer is told how many steps to take, and ends when it is told to.
        bench = Bench.of(setting, options, WARM_UP + rounds + LOOKED_INTO + 1, Path(folder))
        settings = {key: yaml.safe_load(value) for key, _, value in (one.partition("=") for one in options.settings)}
        config = with_overrides(bench.config, {"engine.threads_per_worker": options.threads, **settings})
        # The steps that are looked into have one batch, so that a refresh differs in nothing else.
        batches = [*bench.batches[: WARM_UP + rounds], *[bench.batches[-1]] * (LOOKED_INTO + 1)]
        bench = replace(bench, config=config, batches=batches)
        rows = measure(bench, kinds, rounds)
    print(table(rows))
    passed = True
    for goal in goals(rows, options):
        print(f"{'held' if goal.is_held else 'MISSED':6} {goal.about}: {goal.found:.3g}, at most {goal.most:.3g}")
        passed &= goal.is_held
    print("PASS" if passed else "FAIL")
    found = {
        "environment": environment(),
        "options": {name: str(value) for name, value in vars(options).items()},
        "rounds": rounds,
        "mean_length": bench.mean_length,
        "contenders": rows,
    }
    line = json.dumps(found)
    if options.out:
        options.out.write_text(line, encoding="utf-8")
    print(line)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
