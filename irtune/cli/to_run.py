"""Commands that run studies, and that check their files."""

import argparse
import gc
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from irtune.cli.common_options import add_overrides, add_storage, add_ways_to_run, is_override, storage_of
from irtune.cli.terminal import say
from irtune.config.ablation_schema import AblationConfig
from irtune.config.load import load, load_any, parse_overrides, with_threads
from irtune.config.run_schema import RunConfig
from irtune.config.study_schema import StudyConfig
from irtune.config.sweep_schema import SweepConfig
from irtune.redaction import redact

QUICKSTART = "search_spaces/quickstart.yaml"
ABLATION = "search_spaces/ablation_quickstart.yaml"
TRAIN = "search_spaces/single_run.yaml"


def add_to(commands: Any) -> None:
    """Add sweep, ablate, train and validate."""
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
    add_storage(train, "the studies of --from")

    validate = commands.add_parser(
        "validate", help="check files as a sweep does before it starts: settings, space, model, data"
    )
    validate.add_argument("files", nargs="+", metavar="file", help="sweep files or single runs")
    add_overrides(validate)
    validate.set_defaults(command=_validate)


def _add_study(commands: Any, name: str, kind: type[StudyConfig], file: str, about: str) -> argparse.ArgumentParser:
    """Add the command of one kind of study, whose file is ``file`` by default."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=about)
    command.add_argument("file", nargs="?", help=f"a study file (default: {file})")
    add_overrides(command)
    add_ways_to_run(command)
    command.set_defaults(command=partial(_study, kind, file))
    return command


def _study(kind: type[StudyConfig], default: str, options: argparse.Namespace, console: Console) -> int:
    from irtune.training.rehearsal import Rehearsal

    # As text: a path would lose one of the slashes of an address.
    first, overrides = options.file, options.overrides
    if first is not None and is_override(first):
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
    storage = storage_of(options)
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


def _validate(options: argparse.Namespace, console: Console) -> int:
    from irtune.studies.preflight import check_inputs, prepare

    arguments = [*options.files, *options.overrides]
    overrides = parse_overrides(argument for argument in arguments if is_override(argument))
    files = [Path(argument) for argument in arguments if not is_override(argument)]
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
            say(console, f"{file}: note: {doubt}")
        for name, fact in inputs.facts().items():
            say(console, f"{file}: {name}: {fact}")
        say(console, f"{file}: ok")
    return 2 if wrong else 0
