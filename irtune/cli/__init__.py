"""The command line: studies run and used, looked at and moved; settings and methods explained (``irtune --help``)."""

import argparse
import sys
from collections.abc import Sequence

from irtune.cli import to_look, to_run, to_use
from irtune.cli.terminal import log_no_secrets, quieten_libraries, terminal
from irtune.redaction import raised_publicly, redact


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 1 nothing finished, 2 bad input.

    Where Ray dies under a sweep it exits with 3, where it is stopped with 128 and the signal's number.
    """
    options = _parse(arguments)
    console = terminal()
    quieten_libraries()
    log_no_secrets()
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
    for room in (to_run, to_use, to_look):
        room.add_to(commands)
    return parser
