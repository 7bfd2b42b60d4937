"""The program `spear-tts`: all commands in one parser, and errors as exit codes (see the package's docstring)."""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import NoReturn

from spear_tts_pytorch.cli.arguments import add_command
from spear_tts_pytorch.cli.demo import add_demo
from spear_tts_pytorch.cli.generate import add_generate
from spear_tts_pytorch.cli.label import add_label
from spear_tts_pytorch.cli.pairs import add_pairs
from spear_tts_pytorch.cli.say import add_say
from spear_tts_pytorch.cli.table import add_table
from spear_tts_pytorch.cli.tokenize import add_tokenize
from spear_tts_pytorch.cli.voice import add_new, add_run, add_stage
from spear_tts_pytorch.training.signals import terminating
from spear_tts_pytorch.version import __version__

# OSError covers missing, existing and unreadable files, a full disk and a hub that cannot be reached.
USER_ERRORS = (ValueError, OSError, ImportError)
STDOUT = 1


class _Parser(argparse.ArgumentParser):
    """An argparse parser that raises its errors, so that `main` reports them like all others."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see `{self.prog} --help`")


class _Narrow(argparse.RawDescriptionHelpFormatter):
    """Help of 80 columns, in which the longest name of a command and its description share a line."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=19, width=80)
        self._action_max_length = 17  # Python 3.11 forgets to count the indentation of commands

    def _format_action(self, action: argparse.Action) -> str:
        """The lines of an argument. A list of commands needs no line "COMMAND" above it."""
        lines = super()._format_action(action)
        return lines.partition("\n")[2] if action.nargs == argparse.PARSER else lines


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: arguments after the program's name; those of the process if None.

    Returns:
        An exit code: 0, 1, 2, 130, 141 or 143; see the docstring of the package `cli`.
    """
    try:
        args = parser().parse_args(argv)
        with terminating():
            code: int = args.command(args)
            if sys.stdout is not None:  # None if the shell closed it
                sys.stdout.flush()
            return code
    except SystemExit as exit_request:  # --help was printed, or SIGTERM came
        return int(exit_request.code or 0)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (*USER_ERRORS, RuntimeError) as error:
        if isinstance(error, BrokenPipeError) and not _is_read():  # the reader, such as `head`, has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)  # for the flush when Python ends
            return 141
        if os.environ.get("SPEAR_TTS_DEBUG") == "1" or not (isinstance(error, USER_ERRORS) or _is_of_another(error)):
            raise
        print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 2


def _is_read() -> bool:
    """Whether somebody reads the standard output; where the system cannot tell (Windows), nobody does."""
    if not hasattr(select, "poll"):
        return False
    output = select.poll()
    output.register(STDOUT, 0)  # errors are always told
    return not output.poll(0)


def _is_of_another(error: Exception) -> bool:
    """Whether the first of several processes failed, and says why itself."""
    from spear_tts_pytorch.utils.distributed import FirstProcessError  # slow to import

    return isinstance(error, FirstProcessError)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands. Parsed arguments hold the function to call as `command`."""
    made = _Parser(
        prog="spear-tts",
        description="From hours of recordings and minutes of transcripts to a voice.",
        epilog="example:\n  spear-tts demo --quick",
        formatter_class=_Narrow,
        add_help=False,
    )
    made.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)  # the list below fits a screen
    commands = made.add_subparsers(title="commands; each has --help", metavar="COMMAND", required=True)
    for add in (add_new, add_run):
        add(commands)
    for stage in ("units", "resynthesis", "pretrain", "backtranslate"):
        add_stage(commands, stage)
    add_label(commands)
    for stage in ("train", "evaluate"):
        add_stage(commands, stage)
    for add in (add_table, add_say, add_demo, add_generate, add_tokenize, add_pairs):
        add(commands)
    description = "Print the versions that a bug report needs."
    add_command(
        commands,
        "version",
        _version,
        help="print the versions that a bug report needs",
        description=description,
        example="version",
        after=None,
    )
    return made


def _version(args: argparse.Namespace) -> int:
    # The installed metadata tell torch's version; importing torch takes seconds.
    print(f"spear-tts-pytorch {__version__}, torch {metadata.version('torch')}, Python {sys.version.split()[0]}")
    return 0
