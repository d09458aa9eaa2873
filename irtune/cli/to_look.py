"""Commands that show: studies of a storage, several in one report, settings and methods; and what tidies up."""

import argparse
import os
from pathlib import Path
from typing import Any

from rich.console import Console

from irtune.cli.common_options import STORAGE, add_storage, storage_of
from irtune.cli.terminal import say
from irtune.cli.to_run import QUICKSTART
from irtune.files import write_whole

RUN = f"irtune sweep {QUICKSTART} 'space={{training.learning_rate: {{type: float, low: 3e-4, high: 3e-3, log: true}}}}'"
"""A command that compares anything with the baseline, over a space that every method has."""


def add_to(commands: Any) -> None:
    """Add watch, list, report, clean, sync, settings and methods."""
    _add_looks(commands)
    report = commands.add_parser("report", help="show what studies found, from their records; several in one table")
    report.add_argument("studies", metavar="NAME", nargs="+", help="a study's folder, or its name under --storage")
    add_storage(report)
    report.add_argument("--out", type=Path, metavar="PAGE", help="an .html file to write too")
    report.set_defaults(command=_report)

    settings = commands.add_parser("settings", help="list every setting with its type, default and meaning")
    settings.add_argument("section", nargs="?", help="training, tune.finalists, data.file, …, or one setting")
    settings.set_defaults(command=_settings)

    methods = commands.add_parser("methods", help="list methods, policies, signals and aggregations, or explain one")
    methods.add_argument("name", nargs="?", help="what to explain")
    methods.set_defaults(command=_methods)

    sync = commands.add_parser("sync", help="send to MLflow what sweeps could not, and end the runs of dead drivers")
    sync.add_argument("folders", nargs="+", type=Path, metavar="folder", help="a sweep's folder, or storage of several")
    sync.add_argument("--tracking-uri", help="MLflow's address (default: MLFLOW_TRACKING_URI, else each sweep's own)")
    sync.set_defaults(command=_sync)


def _add_looks(commands: Any) -> None:
    watch = commands.add_parser("watch", help="show a study while it runs, from any machine that sees its storage")
    watch.add_argument("study", metavar="NAME", help="a study's folder, or its name under --storage")
    add_storage(watch)
    watch.add_argument("--once", action="store_true", help="show it as it is now, and return")
    watch.set_defaults(command=_watch)
    listing = commands.add_parser("list", help="list the studies of a storage: state, trials, best, size")
    listing.add_argument("storage", nargs="?", metavar="STORAGE", type=Path, help=f"(default: {STORAGE})")
    listing.set_defaults(command=_list)
    clean = commands.add_parser("clean", help="free what studies no longer need; nothing that was measured goes")
    clean.add_argument("studies", nargs="*", metavar="NAME", help="as of watch (default: all under --storage)")
    add_storage(clean)
    clean.add_argument("--yes", action="store_true", help="do it; without, only say what would go, and how large it is")
    clean.set_defaults(command=_clean)


def _watch(options: argparse.Namespace, console: Console) -> int:
    from irtune.results.watch import watch
    from irtune.studies.recorded import find_study

    storage = storage_of(options)
    return watch(find_study(options.study, storage, of_anybody=True), console, once=options.once)


def _list(options: argparse.Namespace, console: Console) -> int:
    from irtune.results.listing import show_studies

    show_studies(storage_of(options), console)
    return 0


def _clean(options: argparse.Namespace, console: Console) -> int:
    from irtune.results.cleaning import clean

    storage = storage_of(options)
    return clean(options.studies, storage, console, removes=options.yes)


def _report(options: argparse.Namespace, console: Console) -> int:
    from irtune.results.together import report_together

    out = options.out and options.out.expanduser()
    if out is not None and (out.suffix.lower() != ".html" or out.is_dir()):
        raise ValueError(f"--out: {out} is no name of a page; name an .html file")
    report = report_together(options.studies, storage_of(options))
    for heading, table in report.tables.items():
        console.print(f"[bold]{heading}[/]")
        console.print(table.rich(console.width))
    say(console, f"Answer {report.answer}")
    for caveat in report.caveats:
        say(console, f"  - {caveat}")
    if out is not None:
        write_whole(out, report.page())
        say(console, f"wrote {out}")
    return 0


def _sync(options: argparse.Namespace, console: Console) -> int:
    from irtune.tracking.outbox import find_sweeps, open_tracker, sync

    uri = options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    left = 0
    for folder in find_sweeps(options.folders):
        # Who says where to send has looked at what is sent.
        of_anybody = options.tracking_uri is not None
        result = sync(folder, lambda folder: open_tracker(folder, uri), of_anybody=of_anybody)
        left += len(result.left)
        say(console, f"{folder.resolve().name}: {result}")
    return 1 if left else 0


def _settings(options: argparse.Namespace, console: Console) -> int:
    from irtune.config.settings_view import settings

    for table in settings(options.section):
        console.print(table)
    return 0


def _methods(options: argparse.Namespace, console: Console) -> int:
    from irtune.config.catalogue import explain, overview

    for part in overview() if options.name is None else explain(options.name, RUN):
        console.print(part, soft_wrap=isinstance(part, str), highlight=False, markup=False)
    return 0
