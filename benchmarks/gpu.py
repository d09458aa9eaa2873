"""Everything that needs a GPU, in one run of at most ``--limit`` seconds: one JSON file, and a table.

    python benchmarks/gpu.py [--device cuda|cpu] [--model smollm2-135m|tiny] [--only steps …] [--out gpu.json]

| section | what it looks at |
|---|---|
| tests | ``gpu_tests.py``: the tests that are skipped on a CPU |
| exactness-fp32, -bf16, -fp16 | ``exactness.py``: cells of one rank at ZeRO stages 0 to 3, in one precision each |
| step | ``step.py``: what a step costs in bf16, beside a Hugging Face Trainer |
| step-unshared | the same of all blocks, where every row computes the common tokens |
| step-8b | ``step.py`` on blocks of an 8B model's shape |
| memory | ``gpu_memory.py``: peak memory beside the closed form, up to a model of 8B |
| sweep | ``gpu_sweep.py``: a sweep with two trials on one GPU |

Each is a process of its own with a time limit, so that none stops the others; the file is rewritten after each. Those
that time nothing run beside each other, the others alone. Exits with 1 unless all passed. With ``--device cpu --model
tiny`` the same runs on a CPU, to see that it works.
"""

import argparse
import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TAIL = 60
"""Lines that are kept of what a section printed, and of what it said on stderr if it did not pass."""


@dataclass(frozen=True)
class Section:
    """A part of the run.

    Args:
        name: What ``--only`` calls it.
        command: A script beside this one, with its arguments but for ``--out FILE``.
        limit_s: Seconds until it is ended.
        is_timed: Whether it measures time, and so needs the machine for itself.
        skipped: Why it does not run here; empty if it does.
    """

    name: str
    command: Sequence[str]
    limit_s: float
    is_timed: bool = True
    skipped: str = ""


def sections(device: str, model: str) -> list[Section]:
    """All of them, those first that say whether anything works at all."""
    options = ("--device", device, "--model", model)
    return [
        Section("tests", ("gpu_tests.py",), 100, is_timed=False),
        exactness(device, "fp32", "dora"),
        exactness(device, "bf16", "ia3"),
        exactness(device, "fp16", "lora"),
        step("step", device, model),
        step("step-unshared", device, model, "--kinds", "all", "--settings", "engine.share_prefix=false"),
        step("step-8b", device, "8b-blocks" if device == "cuda" else model, "--kinds", "all", "last third", "ir"),
        Section("memory", ("gpu_memory.py", *options), 150),
        Section("sweep", ("gpu_sweep.py", *options), 150),
    ]


def step(name: str, device: str, model: str, *more: str) -> Section:
    """A run of the benchmark of steps, in few rounds; on a CPU of any speed, to see that it works."""
    speed = () if device == "cuda" else ("--most-time", "100")
    options = ("--device", device, "--model", model, "--precision", "bf16", "--rounds", "8", *speed)
    return Section(name, ("step.py", *options, *more), 75)


def exactness(device: str, precision: str, tuner: str) -> Section:
    """The cells of LoRA, and some of another tuner; on a CPU only these, to see that it works."""
    filters = [f"ranks=1,precision={precision},accumulation=2,clipping=on,tuner={tuner}"]
    if device == "cuda":
        filters.append(f"ranks=1,precision={precision},accumulation=2,tuner=lora")
    return Section(
        f"exactness-{precision}",
        ("exactness.py", "--device", device, *(part for each in filters for part in ("--only", each))),
        150,
        is_timed=False,
        skipped="DeepSpeed refuses fp16 on a CPU" if (device, precision) == ("cpu", "fp16") else "",
    )


def run(section: Section, limit_s: float) -> dict[str, Any]:
    """Run a section to its end, or to its limit; what it found, and how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        out, log, errors = (Path(folder) / name for name in ("found.json", "stdout", "stderr"))
        script, *arguments = section.command
        command = [sys.executable, str(HERE / script), *arguments, "--out", str(out)]
        started = time.monotonic()
        with log.open("wb") as stdout, errors.open("wb") as stderr:
            process = subprocess.Popen(
                command,
                cwd=HERE.parent,
                env=environment_of_sections(),
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
            status = ended(process, limit_s)
        result: dict[str, Any] = {
            "command": " ".join(["python", f"benchmarks/{script}", *arguments]),
            "status": status,
            "seconds": round(time.monotonic() - started, 1),
            "found": read(out),
            "printed": tail(log),
        }
        return result if status == "passed" else result | {"errors": tail(errors)}


def environment_of_sections() -> dict[str, str]:
    """This checkout's irtune before any that is installed, and output line by line."""
    path = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def ended(process: "subprocess.Popen[bytes]", limit_s: float) -> str:
    """Wait for a process, and end it and its children where that takes too long: ``passed``, ``failed``, or why not."""
    try:
        status = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"ended after {limit_s:.0f} s"
    return "passed" if status == 0 else f"failed with status {status}"


def read(out: Path) -> Any:
    """What a section wrote so far; None if nothing that can be read."""
    try:
        return json.loads(out.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def tail(file: Path) -> list[str]:
    """Its last lines, of those that a progress bar drew over one another the last."""
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    return [line.rpartition("\r")[2][:500] for line in lines if line.strip()][-TAIL:]


def machine() -> dict[str, str]:
    """The GPUs as the driver names them; empty without any."""
    asked = ("name", "memory.total", "driver_version")
    command = ["nvidia-smi", f"--query-gpu={','.join(asked)}", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(asked, (part.strip() for part in told.splitlines()[0].split(",")), strict=True))


def provenance(commit: str | None) -> dict[str, str]:
    """Versions, machine and commit."""
    from irtune.studies.provenance import environment

    return environment() | machine() | ({"git commit": commit} if commit else {})


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A line per section, as Markdown."""
    lines = ["| section | status | seconds |", "|---|---|---|"]
    lines += [f"| {name} | {one['status']} | {one.get('seconds', '')} |" for name, one in results.items()]
    return "\n".join(lines)


def run_all(chosen: Sequence[Section], limit_s: float, out: Path, report: dict[str, Any]) -> bool:
    """Run sections, and rewrite the report after each; whether all passed."""
    started, results = time.monotonic(), report["sections"]
    here = [section for section in chosen if not section.skipped]
    results |= {section.name: {"status": f"skipped: {section.skipped}"} for section in chosen if section.skipped}
    side_by_side = [section for section in here if not section.is_timed]
    for group in (side_by_side, *([section] for section in here if section.is_timed)):
        left_s = limit_s - (time.monotonic() - started)
        for name, found in run_group(group, left_s):
            print(f"\n## {name}\n\n" + "\n".join([*found["printed"], *found.get("errors", [])[-25:]]), flush=True)
            results[name] = found
            out.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return all(one["status"].startswith(("passed", "skipped")) for one in results.values())


def run_group(group: Sequence[Section], left_s: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run sections at the same time; yields each with what it found, as soon as it ends."""
    with ThreadPoolExecutor(max_workers=max(1, len(group))) as pool:
        running = {pool.submit(run, section, max(1.0, min(section.limit_s, left_s))): section for section in group}
        for future in as_completed(running):
            yield running[future].name, future.result()


def main() -> int:
    """Run what was asked for, and print a table; 1 unless all passed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--model", choices=("smollm2-135m", "tiny"), default="smollm2-135m")
    parser.add_argument("--only", nargs="*", metavar="SECTION", help="run these sections")
    parser.add_argument("--limit", type=float, default=480, help="seconds for all sections together")
    parser.add_argument("--commit", help="what runs, where there is no git to ask")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    options = parser.parse_args()
    every = sections(options.device, options.model)
    unknown = set(options.only or ()) - {section.name for section in every}
    if unknown:
        parser.error(f"--only {' '.join(sorted(unknown))}: give some of {' '.join(section.name for section in every)}")
    chosen = [section for section in every if options.only is None or section.name in options.only]
    report: dict[str, Any] = {
        "device": options.device,
        "model": options.model,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "environment": provenance(options.commit),
        "sections": {},
    }
    passed = run_all(chosen, options.limit, options.out, report)
    print("\n" + "\n".join(f"- {name}: {value}" for name, value in report["environment"].items()))
    print(f"\n{table(report['sections'])}\n\n{'PASS' if passed else 'FAIL'}; all of it: {options.out}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
