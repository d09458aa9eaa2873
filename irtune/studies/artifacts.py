"""Files made of a trial's record when the trial is over: its trace as arrays and as a picture."""

import logging

from irtune.analysis.heat_map import trace_heat_map
from irtune.files import once_there_is_room, write_arrays
from irtune.studies.trial_record import TrialRecord
from irtune.tracking.run_record import RunRecord
from irtune.tracking.trace import read_trace

TRACE = "trace.npz"
HEAT_MAP = "layer_importance.png"
ROOM_S = 30.0
"""Whoever ends a sweep waits for its drawings."""


def keep_trace(entry: TrialRecord) -> None:
    """Write the layer trace of a trial and its heat map, however the trial ended, for MLflow to have.

    Drawing must not cost a sweep: what goes wrong is logged.
    """

    def keep() -> None:
        trace = read_trace(entry.folder)
        if not len(trace["step"]):
            return
        write_arrays(entry.folder / TRACE, trace)
        label = f"importance ({entry.config.importance.name.replace('_', ' ')})"
        figure = trace_heat_map(trace["scores"], trace["active"], trace["step"], title=entry.title, score_label=label)
        figure.savefig(entry.folder / HEAT_MAP, dpi=120)
        for file in (TRACE, HEAT_MAP):
            RunRecord(entry.folder).add_artifact(entry.folder / file, "layer_importance")

    try:
        once_there_is_room(keep, entry.folder, ROOM_S)
    except Exception:
        logging.getLogger(__name__).exception("%s: no layer trace", entry.title)
