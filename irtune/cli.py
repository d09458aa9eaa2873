"""The command line: studies run and used, looked at and moved; settings and methods explained (``irtune --help``)."""

import argparse
import gc
import io
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from irtune.config.ablation_schema import AblationConfig
from irtune.config.load import load, load_any, parse_overrides, with_threads
from irtune.config.run_schema import RunConfig
from irtune.config.schema import ExperimentConfig
from irtune.config.study_schema import StudyConfig
from irtune.config.sweep_schema import SweepConfig
from irtune.files import write_whole
from irtune.redaction import raised_publicly, redact

QUICKSTART = "search_spaces/quickstart.yaml"
ABLATION = "search_spaces/ablation_quickstart.yaml"
TRAIN = "search_spaces/single_run.yaml"
STORAGE = str(ExperimentConfig.model_fields["storage"].default)
RUN = f"irtune sweep {QUICKSTART} 'space={{training.learning_rate: {{type: float, low: 3e-4, high: 3e-3, log: true}}}}'"
"""A command that compares anything with the baseline, over a space that every method has."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 1 nothing finished, 2 bad input.

    Where Ray dies under a sweep it exits with 3, where it is stopped with 128 and the signal's number.
    """
    options = _parse(arguments)
    console = _console()
    _quieten_libraries()
    _log_no_secrets()
    try:
        return int(options.command(options, console))
    except (ValueError, ConnectionError) as error:
        # A mistake of the user's or of the surroundings: the message says what to do, a traceback would hide it.
        print(redact(f"error: {error}"), file=sys.stderr)
        return 2
    except Exception as error:
        # Python prints it, and is not to print a login with it.
        public = raised_publicly(error)
        if public is error:
            raise
        raise public from None


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    # Of settings on both sides of an option argparse takes those before it only.
    if any(argument.startswith("-") for argument in rest) or (rest and not hasattr(options, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="irtune", description="Finds out which layers of a model are worth training.")
    commands = parser.add_subparsers(required=True)
    _add_study(commands, "sweep", SweepConfig, QUICKSTART, "search a space and say how many blocks to train")
    about = "compare cells over seeds, and judge what is claimed of them"
    ablate = _add_study(commands, "ablate", AblationConfig, ABLATION, about)
    ablate.add_argument("--fresh", action="store_true", help="train again what an earlier study has trained just so")
    train = _add_study(
        commands, "train", RunConfig, TRAIN, "train one configuration once, tracked and resumed as a study is"
    )
    train.add_argument(
        "--from",
        dest="of",
        metavar="STUDY[:TRIAL]",
        help="instead of a file the settings of a trial that finished (default: the study's best on validation)",
    )
    train.add_argument("--storage", type=Path, help=f"where the studies of --from lie (default: {STORAGE})")

    predict = commands.add_parser("predict", help="classify the rows of a file with the adapter of a trial")
    predict.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder with an adapter, a study's folder or name, with :TRIAL or not, or of MLflow "
        "(MLFLOW_TRACKING_URI, else the storage's own) a run's id or models:/NAME@champion",
    )
    predict.add_argument("file", metavar="FILE", type=Path, help="of any kind that data.file reads; labels not needed")
    _add_overrides(predict)
    predict.add_argument("--out", type=Path, help="a .csv, .jsonl or .parquet file (default: CSV on stdout)")
    predict.add_argument("--storage", type=Path, help=f"where studies lie (default: {STORAGE})")
    predict.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    predict.set_defaults(command=_predict)

    _add_recommend(commands)
    _add_travel(commands)

    validate = commands.add_parser(
        "validate", help="check files as a sweep does before it starts: settings, space, model, data"
    )
    validate.add_argument("files", nargs="+", metavar="file", help="sweep files or single runs")
    _add_overrides(validate)
    validate.set_defaults(command=_validate)

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
    _add_looks(commands)
    return parser


def _add_recommend(commands: Any) -> None:
    recommend = commands.add_parser(
        "recommend", help="say what a study's best trial comes to without irtune: PEFT settings, and a layer card"
    )
    recommend.add_argument("study", metavar="NAME", help="a sweep's or ablation's folder, or its name under --storage")
    _add_overrides(recommend)
    recommend.add_argument("--storage", type=Path, help=f"where studies lie (default: {STORAGE})")
    recommend.add_argument("--trial", metavar="NAME", help="the trial, or the cell, to go by (default: the best one)")
    recommend.add_argument("--out", type=Path, metavar="FOLDER", help="where to write (default: the study's folder)")
    recommend.add_argument(
        "--control",
        type=int,
        metavar="SEEDS",
        help="then train its blocks statically, what chose them, and LoRA of all blocks, on so many fresh seeds each",
    )
    _add_ways_to_run(recommend)
    recommend.set_defaults(command=_recommend)


def _add_travel(commands: Any) -> None:
    export = commands.add_parser("export", help="write a study into one file, for another machine")
    export.add_argument("study", metavar="NAME", help="a study's folder or name; with --merged as SOURCE of predict")
    export.add_argument("out", metavar="OUT", type=Path, help="the .zip file; with --merged a folder")
    export.add_argument("--storage", type=Path, help=f"where studies lie (default: {STORAGE})")
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
    imported.add_argument("--storage", type=Path, help=f"where studies lie (default: {STORAGE})")
    imported.set_defaults(command=_import)

    report = commands.add_parser("report", help="show what studies found, from their records; several in one table")
    report.add_argument("studies", metavar="NAME", nargs="+", help="a study's folder, or its name under --storage")
    report.add_argument("--storage", type=Path, help=f"where studies lie (default: {STORAGE})")
    report.add_argument("--out", type=Path, metavar="PAGE", help="an .html file to write too")
    report.set_defaults(command=_report)


def _add_study(commands: Any, name: str, kind: type[StudyConfig], file: str, about: str) -> argparse.ArgumentParser:
    """Add the command of one kind of study, whose file is ``file`` by default."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=about)
    command.add_argument("file", nargs="?", help=f"a study file (default: {file})")
    _add_overrides(command)
    _add_ways_to_run(command)
    command.set_defaults(command=partial(_study, kind, file))
    return command


def _add_ways_to_run(command: argparse.ArgumentParser) -> None:
    resume = command.add_mutually_exclusive_group()
    resume.add_argument(
        "--resume", action="store_const", const="always", default="ask", help="go on with the last one of this name"
    )
    resume.add_argument("--new", dest="resume", action="store_const", const="never", help="begin a new one")
    command.add_argument(
        "--plan", action="store_true", help="say what would be done, how long and where, and do nothing"
    )


def _add_overrides(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "overrides", nargs="*", metavar="dotted.key=value", help="settings that replace those of the file"
    )


def _study(kind: type[StudyConfig], default: str, options: argparse.Namespace, console: Console) -> int:
    from irtune.training.rehearsal import Rehearsal

    # As text: a path would lose one of the slashes of an address.
    first, overrides = options.file, options.overrides
    if first is not None and _is_override(first):
        first, overrides = None, [first, *overrides]
    file = Path(first or default)
    config: StudyConfig
    if kind is RunConfig and options.of is not None:
        config, file = _of_a_trial(options, None if first is None else file, overrides)
    else:
        config = load(kind, file, parse_overrides(overrides))
    at_once = config.tune.max_concurrent_trials
    experiment = with_threads(config.experiment(), at_once and at_once * config.engine.num_workers)
    # It imports what training needs while this process imports what a study needs.
    with Rehearsal(experiment) as rehearsal:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        runner = _runner(kind, options)
        study = config, str(file), console, options.resume, rehearsal
        if options.plan:
            runner.plan(*study).show(console)
            # So that Python does not spend seconds on looking through torch's objects once more as it ends.
            gc.freeze()
            return 0
        return 0 if runner.succeeded(runner.run(*study)) else 1


def _of_a_trial(options: argparse.Namespace, file: Path | None, overrides: Sequence[str]) -> tuple[RunConfig, Path]:
    """The configuration of a trial to train again, and where it comes from."""
    from irtune.studies.single_run import config_from

    if file is not None:
        raise ValueError(f"{file}: give a file or --from, not both; settings are changed by dotted.key=value")
    storage = _storage(options)
    return config_from(options.of, storage, parse_overrides(overrides))


def _runner(kind: type[StudyConfig], options: argparse.Namespace) -> Any:
    if kind is SweepConfig:
        from irtune.studies.sweep import SweepRunner

        return SweepRunner()
    if kind is RunConfig:
        from irtune.studies.single_run import SingleRunner

        return SingleRunner()
    from irtune.studies.ablation import AblationRunner

    return AblationRunner(fresh=options.fresh)


def _predict(options: argparse.Namespace, console: Console) -> int:
    from irtune.studies.predict import predict

    storage = _storage(options)
    file, out = options.file.expanduser(), options.out and options.out.expanduser()
    told = console if out else _PublicConsole(stderr=True)
    predict(options.source, file, out, storage, options.device, parse_overrides(options.overrides), told)
    gc.freeze()
    return 0


def _recommend(options: argparse.Namespace, console: Console) -> int:
    from irtune.studies.recommend import recommend

    if options.control is None and (options.overrides or options.plan or options.resume != "ask"):
        raise ValueError("settings, --plan, --resume and --new are about the control; give --control SEEDS with them")
    storage = _storage(options)
    folder, recommended = recommend(options.study, storage, options.trial)
    out = (options.out or folder).expanduser()
    files = [] if options.plan else recommended.write(out)
    for text in (recommended.python(), recommended.yaml()):
        console.print(text, highlight=False, soft_wrap=True, markup=False)
    for file in files:
        console.print(f"wrote {file}", highlight=False, soft_wrap=True, markup=False)
    if options.control is None:
        return 0
    from irtune.studies.control import run_control

    how = {"resume": options.resume, "plan": options.plan, "console": console}
    settings = parse_overrides(options.overrides)
    return 0 if run_control(folder, out, recommended, options.control, settings, **how) else 1


def _export(options: argparse.Namespace, console: Console) -> int:
    storage, out = _storage(options), options.out.expanduser()
    if options.merged:
        from irtune.studies.predict import find_adapter
        from irtune.training.merged import write_merged

        adapter = find_adapter(options.study, storage)
        write_merged(adapter, out)
        _say(console, f"wrote {out}: the model of {adapter}, for transformers alone")
        return 0
    from irtune.studies.travel import export_study

    exported = export_study(options.study, out, storage, adapters=not options.no_adapters)
    for file in exported.redacted:
        _say(console, f"note: {file}: secrets in it were taken out")
    _say(console, f"wrote {out}: {exported}")
    return 0


def _import(options: argparse.Namespace, console: Console) -> int:
    from irtune.studies.travel import import_study

    imported = import_study(options.file.expanduser(), _storage(options))
    _say(console, f"wrote {imported.folder}: {imported}")
    return 0


def _report(options: argparse.Namespace, console: Console) -> int:
    from irtune.studies.together import report_together

    out = options.out and options.out.expanduser()
    if out is not None and (out.suffix.lower() != ".html" or out.is_dir()):
        raise ValueError(f"--out: {out} is no name of a page; name an .html file")
    report = report_together(options.studies, _storage(options))
    for heading, table in report.tables.items():
        console.print(f"[bold]{heading}[/]")
        console.print(table.rich(console.width))
    _say(console, f"Answer {report.answer}")
    for caveat in report.caveats:
        _say(console, f"  - {caveat}")
    if out is not None:
        write_whole(out, report.page())
        _say(console, f"wrote {out}")
    return 0


def _storage(options: argparse.Namespace) -> Path:
    storage: Path = (options.storage or Path(STORAGE)).expanduser().resolve()
    return storage


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def _validate(options: argparse.Namespace, console: Console) -> int:
    from irtune.studies.preflight import check_inputs, prepare

    arguments = [*options.files, *options.overrides]
    overrides = parse_overrides(argument for argument in arguments if _is_override(argument))
    files = [Path(argument) for argument in arguments if not _is_override(argument)]
    wrong = 0
    for file in files or [Path(QUICKSTART)]:
        try:
            config = load_any(file, overrides)
            if isinstance(config, StudyConfig):
                ready = prepare(config, str(file), makes_store=False)
                inputs, doubts = ready.inputs, ready.doubts
                ready.check_away(config.tracking, is_new=True)
            else:
                inputs, *_ = check_inputs(config, str(file), reads_again=False)
                doubts = inputs.dataset.notes
        except ValueError as error:
            wrong += 1
            print(redact(str(error)), file=sys.stderr)
            continue
        for doubt in doubts:
            console.print(f"{file}: note: {doubt}", highlight=False, soft_wrap=True, markup=False)
        for name, fact in inputs.facts().items():
            console.print(f"{file}: {name}: {fact}", highlight=False, soft_wrap=True, markup=False)
        console.print(f"{file}: ok", highlight=False, soft_wrap=True, markup=False)
    return 2 if wrong else 0


def _is_override(argument: str) -> bool:
    return "=" in argument and not Path(argument).exists()


def _methods(options: argparse.Namespace, console: Console) -> int:
    from irtune.config.catalogue import explain, overview

    for part in overview() if options.name is None else explain(options.name, RUN):
        console.print(part, soft_wrap=isinstance(part, str), highlight=False, markup=False)
    return 0


def _settings(options: argparse.Namespace, console: Console) -> int:
    from irtune.config.settings_view import settings

    for table in settings(options.section):
        console.print(table)
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
        console.print(f"{folder.resolve().name}: {result}", highlight=False, soft_wrap=True, markup=False)
    return 1 if left else 0


def _add_looks(commands: Any) -> None:
    watch = commands.add_parser("watch", help="show a study while it runs, from any machine that sees its storage")
    watch.add_argument("study", metavar="NAME", help="a study's folder, or its name under --storage")
    watch.add_argument("--storage", type=Path, help=f"where studies lie (default: {STORAGE})")
    watch.add_argument("--once", action="store_true", help="show it as it is now, and return")
    watch.set_defaults(command=_watch)
    listing = commands.add_parser("list", help="list the studies of a storage: state, trials, best, size")
    listing.add_argument("storage", nargs="?", metavar="STORAGE", type=Path, help=f"(default: {STORAGE})")
    listing.set_defaults(command=_list)
    clean = commands.add_parser("clean", help="free what studies no longer need; nothing that was measured goes")
    clean.add_argument("studies", nargs="*", metavar="NAME", help="as of watch (default: all under --storage)")
    clean.add_argument("--storage", type=Path, help=f"where studies lie (default: {STORAGE})")
    clean.add_argument("--yes", action="store_true", help="do it; without, only say what would go, and how large it is")
    clean.set_defaults(command=_clean)


def _watch(options: argparse.Namespace, console: Console) -> int:
    from irtune.studies.recorded import find_study
    from irtune.studies.watch import watch

    storage = (options.storage or Path(STORAGE)).expanduser().resolve()
    return watch(find_study(options.study, storage, of_anybody=True), console, once=options.once)


def _list(options: argparse.Namespace, console: Console) -> int:
    from irtune.studies.listing import show_studies

    show_studies((options.storage or Path(STORAGE)).expanduser().resolve(), console)
    return 0


def _clean(options: argparse.Namespace, console: Console) -> int:
    from irtune.studies.cleaning import clean

    storage = (options.storage or Path(STORAGE)).expanduser().resolve()
    return clean(options.studies, storage, console, removes=options.yes)


def _quieten_libraries() -> None:
    """Leave the terminal to irtune's own messages; what goes wrong in a library is still raised or logged."""
    import warnings

    os.environ.setdefault("TQDM_DISABLE", "1")
    # MLflow sets its level as it is imported.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    # So does DeepSpeed, which warns of every machine without a GPU.
    logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
    warnings.simplefilter("ignore")
    for name in ("mlflow", "alembic", "deepspeed", "ray.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL if name == "ray.tune" else logging.WARNING)


def _log_no_secrets() -> None:
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


class _PublicConsole(Console):
    """A terminal on which no secrets are shown."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As Rich does, with texts redacted."""
        super().print(*(redact(each) if isinstance(each, str) else each for each in objects), **options)


def _console() -> Console:
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that is not UTF-8 shows a question mark for what it lacks, and no traceback.
        sys.stdout.reconfigure(errors="replace")
    console = _PublicConsole()
    # Job logs and pipes have no width of their own; a table folded to 80 columns is hard to read.
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = _PublicConsole(width=max(console.width, 160))
    return console


if __name__ == "__main__":
    sys.exit(main())
