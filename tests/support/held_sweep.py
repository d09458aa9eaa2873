"""A driver that holds a run open until it is killed: ``python held_sweep.py SWEEP_FOLDER TRACKING_URI``."""

import itertools
import sys
import time
from pathlib import Path

from irtune.tracking.heartbeat import Heartbeat
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.outbox import write_address
from irtune.tracking.run_record import Opened, now_ms
from irtune.tracking.uploader import Uploader
from irtune.training.record import RecordWriter


def main(folder: Path, uri: str) -> None:
    with Heartbeat(folder, interval_s=0.2):
        write_address(folder, uri, "irtune")
        uploader = Uploader(MlflowTracker(uri, "irtune"), interval_s=0.01)
        uploader.start()
        for trial in ("a", "b"):
            uploader.add(folder / "trials" / trial, Opened(f"{folder.name}/{trial}", trial, {}, now_ms()))
        done = RecordWriter(folder / "trials" / "a")
        done.metrics(0, {"loss": 0.5})
        uploader.finish(f"{folder.name}/a", "FINISHED", {"irtune.pruned": False})
        open_one = RecordWriter(folder / "trials" / "b")
        for step in itertools.count():
            open_one.metrics(step, {"loss": 1 / (step + 1), "cost/step_s": 0.001})
            if step == 50:
                uploader.drain(60)
                print("ready", flush=True)
            time.sleep(0.002)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
