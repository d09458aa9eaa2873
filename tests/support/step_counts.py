"""What a step of the tiny model is made of, counted: whatever makes training slower changes one of these.

    PYTHONPATH=.:benchmarks python tests/support/step_counts.py        writes step_counts.json anew

Look at what changed before it is committed.
"""

import json
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from kept_bytes import addresses, kept_storages, num_bytes
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from irtune.config.load import load
from irtune.config.schema import ExperimentConfig
from irtune.data.batches import training_batches
from irtune.training.loop import Loop
from irtune.training.record import NoRecorder
from irtune.training.run import prepared

FILE = Path(__file__).with_suffix(".json")
STAGES = (0, 2)
KINDS = {5: "ordinary", 6: "refresh", 7: "logged"}
"""By step: of two blocks; a probe of all six, that chooses two; one whose loss is recorded."""

_WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::unique"}
"""Operations whose result the host needs: it waits for the device."""
_TRANSFERS = ("cpu", "tolist")
_COLLECTIVES = (
    *("all_reduce", "reduce", "broadcast", "barrier", "reduce_scatter", "reduce_scatter_tensor", "all_gather"),
    *("all_gather_into_tensor", "all_gather_object", "broadcast_object_list", "all_to_all_single"),
)
_ON_HOST = ("torch/optim/", "torch/utils/checkpoint.py", "torch/random.py", "dropout_streams.py")
"""Where numbers are read that lie with the host on every device: counters of steps, states of generators."""


class Waits(TorchDispatchMode):
    """Counts where the host would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket._qualified_op_name in _WAITS:
            self.note()
        return function(*args, **(kwargs or {}))

    def note(self) -> None:
        """Count one, by the place in the code that asks for it."""
        here = str(Path(__file__))
        frames = [frame for frame in reversed(traceback.extract_stack()) if frame.filename != here]
        if not any(part in frame.filename for frame in frames[:6] for part in _ON_HOST):
            mine = next((frame for frame in frames if "/torch/" not in frame.filename), frames[0])
            self.places[f"{'/'.join(Path(mine.filename).parts[-2:])}: {mine.name}"] += 1


def counted(step: Any, parameters: set[int]) -> dict[str, Any]:
    """Run a step and count."""
    waits, calls = Waits(), Counter[str]()
    with (
        _noted(torch.Tensor, _TRANSFERS, lambda _: waits.note()),
        _noted(dist, _COLLECTIVES, lambda name: calls.update([name])),
        kept_storages(parameters) as kept,
        FlopCounterMode(display=False) as flops,
        waits,
    ):
        step()
    return {
        "flops": flops.get_total_flops(),
        "saved_bytes": num_bytes(kept),
        "collectives": dict(sorted(calls.items())),
        "host_waits": dict(sorted(waits.places.items())),
    }


@contextmanager
def _noted(owner: Any, names: tuple[str, ...], note: Any) -> Iterator[None]:
    """Tell of every call of these functions."""
    with patch.multiple(owner, **{name: _telling(getattr(owner, name), name, note) for name in names}):
        yield


def _telling(original: Any, name: str, note: Any) -> Any:
    def told(*arguments: Any, **options: Any) -> Any:
        note(name)
        return original(*arguments, **options)

    return told


@contextmanager
def loop_of(stage: int, folder: Path, **settings: Any) -> Iterator[Loop]:
    """The loop of a trial of the tiny model, by default, that chooses two of six blocks at every other step."""
    config = load(
        ExperimentConfig,
        None,
        {
            "model.name": "tiny-random",
            "data.name": "synthetic",
            "data.train_size": 40,
            "data.validation_size": 8,
            "data.test_size": 8,
            "selection.policy": {"name": "top_k", "k": 2},
            "selection.reselect_every": 2,
            "training.max_steps": 20,
            "training.micro_batch_size": 4,
            "training.log_every": 8,
            "engine.zero_stage": stage,
            **settings,
        },
    )
    with prepared(config, folder, NoRecorder(), lambda metrics: None, folder / "encoded", config.data.load()) as loop:
        yield loop


def count(stage: int) -> dict[str, Any]:
    """What each kind of step is made of."""
    with tempfile.TemporaryDirectory() as folder, loop_of(stage, Path(folder)) as loop:
        stream = training_batches(loop.data.splits["train"].lengths, 4, seed=0)
        found: dict[str, Any] = {}
        parameters = addresses(list(loop.blocks.model.parameters()))
        for number in range(max(KINDS) + 1):
            if number in KINDS:
                before = loop.totals.flops
                found[KINDS[number]] = counted(lambda: loop._step(stream), parameters)
                found[KINDS[number]]["predicted_flops"] = loop.totals.flops - before
            else:
                loop._step(stream)
        return found


if __name__ == "__main__":
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    file.write_text(json.dumps({f"stage {stage}": count(stage) for stage in STAGES}, indent=1) + "\n", encoding="utf-8")
    sys.exit()
