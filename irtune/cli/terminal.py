"""The terminal and the logs: irtune's own messages, and no secrets."""

import io
import logging
import os
import sys
import traceback
import warnings
from typing import Any

from rich.console import Console

from irtune.redaction import redact

NO_TELEMETRY = {"MLFLOW_DISABLE_TELEMETRY": "true", "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
"""Variables that keep MLflow, Ray and the hub's client from reporting on their use."""


def quieten_libraries() -> None:
    """Leave the terminal to irtune's own messages; what goes wrong in a library is still raised or logged."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    # Whoever wants to tell the makers of these libraries how they are used says so.
    for name, value in NO_TELEMETRY.items():
        os.environ.setdefault(name, value)
    # MLflow sets its level as it is imported.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    # So does DeepSpeed, which warns of every machine without a GPU.
    logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
    warnings.simplefilter("ignore")
    for name in ("mlflow", "alembic", "deepspeed", "ray.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL if name == "ray.tune" else logging.WARNING)


def log_no_secrets() -> None:
    """Redact what is logged from here on, tracebacks too, whoever logs it."""
    make = logging.getLogRecordFactory()
    if getattr(make, "redacts", False):
        return

    def make_public(*arguments: Any, **named: Any) -> logging.LogRecord:
        record = make(*arguments, **named)
        # Most of what is logged is shown to nobody.
        if record.levelno >= logging.WARNING:
            record.msg, record.args = redact(record.getMessage()), None
            if record.exc_info and record.exc_info[1] is not None:
                record.exc_text = redact("".join(traceback.format_exception(record.exc_info[1]))).rstrip()
        return record

    make_public.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make_public)


class PublicConsole(Console):
    """A terminal on which no secrets are shown."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As Rich does, with texts redacted."""
        super().print(*(redact(each) if isinstance(each, str) else each for each in objects), **options)


def terminal() -> Console:
    """The console that commands print on."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that is not UTF-8 shows a question mark for what it lacks, and no traceback.
        sys.stdout.reconfigure(errors="replace")
    console = PublicConsole()
    # Job logs and pipes have no width of their own; a table folded to 80 columns is hard to read.
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = PublicConsole(width=max(console.width, 160))
    return console


def say(console: Console, text: str) -> None:
    """Print a line as it is."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)
