"""Commands that use what studies found: predictions, recommendations, and studies on their way to another machine."""

import argparse
import gc
from pathlib import Path
from typing import Any

from rich.console import Console

from irtune.cli.common_options import add_overrides, add_storage, add_ways_to_run, storage_of
from irtune.cli.terminal import PublicConsole, say
from irtune.config.load import parse_overrides

_GOES_ON = (
    "give the command that began it with storage= and paths of that machine, and --resume. Trials that had not "
    "finished begin anew there, since no archive holds checkpoints"
)


def add_to(commands: Any) -> None:
    """Add predict, recommend, export and import."""
    _add_predict(commands)
    _add_recommend(commands)
    _add_travel(commands)


def _add_predict(commands: Any) -> None:
    predict = commands.add_parser("predict", help="classify the rows of a file with the adapter of a trial")
    predict.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder with an adapter, a study's folder or name, with :TRIAL or not, or of MLflow "
        "(MLFLOW_TRACKING_URI, else the storage's own) a run's id or models:/NAME@champion",
    )
    predict.add_argument("file", metavar="FILE", type=Path, help="of any kind that data.file reads; labels not needed")
    add_overrides(predict)
    predict.add_argument("--out", type=Path, help="a .csv, .jsonl or .parquet file (default: CSV on stdout)")
    add_storage(predict)
    predict.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    predict.set_defaults(command=_predict)


def _add_recommend(commands: Any) -> None:
    recommend = commands.add_parser(
        "recommend", help="say what a study's best trial comes to without irtune: PEFT settings, and a layer card"
    )
    recommend.add_argument("study", metavar="NAME", help="a sweep's or ablation's folder, or its name under --storage")
    add_overrides(recommend)
    add_storage(recommend)
    recommend.add_argument("--trial", metavar="NAME", help="the trial, or the cell, to go by (default: the best one)")
    recommend.add_argument("--out", type=Path, metavar="FOLDER", help="where to write (default: the study's folder)")
    recommend.add_argument(
        "--control",
        type=int,
        metavar="SEEDS",
        help="then train its blocks statically, what chose them, and LoRA of all blocks, on so many fresh seeds each",
    )
    add_ways_to_run(recommend)
    recommend.set_defaults(command=_recommend)


def _add_travel(commands: Any) -> None:
    export = commands.add_parser("export", help="write a study into one file, for another machine")
    export.add_argument("study", metavar="NAME", help="a study's folder or name; with --merged as SOURCE of predict")
    export.add_argument("out", metavar="OUT", type=Path, help="the .zip file; with --merged a folder")
    add_storage(export)
    what = export.add_mutually_exclusive_group()
    what.add_argument("--no-adapters", action="store_true", help="leave adapters behind, which are most of the bytes")
    what.add_argument(
        "--merged",
        action="store_true",
        help="instead the best trial's whole model, for transformers alone",
    )
    export.set_defaults(command=_export)

    imported = commands.add_parser("import", help="put an exported study beside those of this machine")
    imported.add_argument("file", metavar="FILE", type=Path, help="what irtune export wrote")
    add_storage(imported)
    imported.set_defaults(command=_import)


def _predict(options: argparse.Namespace, console: Console) -> int:
    from irtune.results.predict import predict

    storage = storage_of(options)
    file, out = options.file.expanduser(), options.out and options.out.expanduser()
    told = console if out else PublicConsole(stderr=True)
    predict(options.source, file, out, storage, options.device, parse_overrides(options.overrides), told)
    gc.freeze()
    return 0


def _recommend(options: argparse.Namespace, console: Console) -> int:
    from irtune.results.recommend import recommend

    if options.control is None and (options.overrides or options.plan or options.resume != "ask"):
        raise ValueError("settings, --plan, --resume and --new are about the control; give --control SEEDS with them")
    storage = storage_of(options)
    folder, recommended = recommend(options.study, storage, options.trial)
    out = (options.out or folder).expanduser()
    files = [] if options.plan else recommended.write(out)
    for text in (recommended.python(), recommended.yaml()):
        say(console, text)
    for file in files:
        say(console, f"wrote {file}")
    if options.control is None:
        return 0
    from irtune.results.control import run_control

    how = {"resume": options.resume, "plan": options.plan, "console": console}
    settings = parse_overrides(options.overrides)
    return 0 if run_control(folder, out, recommended, options.control, settings, **how) else 1


def _export(options: argparse.Namespace, console: Console) -> int:
    storage, out = storage_of(options), options.out.expanduser()
    if options.merged:
        from irtune.results.predict import find_adapter
        from irtune.training.merged import write_merged

        adapter = find_adapter(options.study, storage)
        write_merged(adapter, out)
        say(console, f"wrote {out}: the model of {adapter}, for transformers alone")
        return 0
    from irtune.results.travel import export_study

    exported = export_study(options.study, out, storage, adapters=not options.no_adapters)
    for file in exported.redacted:
        say(console, f"note: {file}: secrets in it were taken out")
    say(console, f"wrote {out}: {exported}")
    if not exported.complete:
        say(console, f"note: to go on elsewhere, import it there; {_GOES_ON}")
    return 0


def _import(options: argparse.Namespace, console: Console) -> int:
    from irtune.results.travel import import_study

    imported = import_study(options.file.expanduser(), storage_of(options))
    say(console, f"wrote {imported.folder}: {imported}")
    if not imported.complete:
        say(console, f"note: to go on here, {_GOES_ON}")
    return 0
