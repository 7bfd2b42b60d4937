"""What the commands share: how one is added to the parser, and the types of their arguments.

A type takes the text of an argument and returns its value. It raises `argparse.ArgumentTypeError` for other texts.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

COLUMNS = "abcdA"  # `recipe.settings` describes them; it is slow to import
Run = Callable[[argparse.Namespace], int]
"""A command: parsed arguments to an exit code."""


class Commands(Protocol):
    """What `ArgumentParser.add_subparsers` returns."""

    def add_parser(
        self, name: str, *, help: str, description: str, epilog: str, formatter_class: Any
    ) -> argparse.ArgumentParser: ...


def add_command(
    commands: Commands,
    name: str,
    run: Run | None,
    *,
    help: str,
    description: str,
    example: str,
    after: str | None = "spear-tts demo --quick",
) -> argparse.ArgumentParser:
    """Adds a command and returns its parser.

    Args:
        run: what the command does; None if it has commands of its own.
        help: one line for the list of commands.
        description: a paragraph for the command's own help.
        example: the command as typed, without `spear-tts`.
        after: the command that must have run before, because the example reads what it writes.
    """
    condition = f" (after `{after}`)" if after else ""
    parser = commands.add_parser(
        name,
        help=help,
        description=textwrap.fill(description, 90),
        epilog=f"example{condition}:\n  spear-tts {example}",  # not wrapped, so that it can be copied
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if run is not None:
        parser.set_defaults(command=run)
    return parser


def add_no_progress(parser: argparse.ArgumentParser) -> None:
    """Adds `--no-progress`, which sets `progress` to False: no bars, but all lines that tell what was done."""
    parser.add_argument("--no-progress", dest="progress", action="store_false", help="show no progress bars")


def positive(text: str) -> int:
    """A whole number of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number >= 1")
    return number


def numbers(text: str) -> list[int]:
    """Whole numbers of at least 1, between commas."""
    try:
        return [positive(part.strip()) for part in text.split(",")]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not whole numbers >= 1 between commas, such as 4,6,9") from None


def seed(text: str) -> int:
    """A whole number from 0 to 2**32 - 1, as NumPy's generators take it."""
    if not (text.isdecimal() and int(text) < 2**32):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {2**32 - 1}")
    return int(text)


def temperature(text: str) -> float:
    """A finite number of at least 0."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number >= 0")
    return number


def count(text: str) -> int:
    """A whole number of at least 0."""
    return 0 if text.isdecimal() and int(text) == 0 else positive(text)


def penalty(text: str) -> float:
    """A finite number above 0."""
    number = temperature(text)
    if number == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number > 0")
    return number


def add_repetition_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of decoding that look at the ids so far; `repetition_options` reads them."""
    command.add_argument(
        "--repetition-penalty",
        type=penalty,
        default=1.0,
        metavar="P",
        help="above 1: ids so far become rarer (default %(default)s)",
    )
    command.add_argument(
        "--no-repeat-ngram-size",
        type=count,
        default=0,
        metavar="N",
        help="no N ids in a row come twice; 0 is off (default %(default)s)",
    )
    command.add_argument(
        "--min-length", type=count, default=0, metavar="N", help="at least N ids before the end (default %(default)s)"
    )


def repetition_options(args: argparse.Namespace) -> dict[str, Any]:
    """Keywords of decoding, those that differ from their defaults."""
    given = {
        "repetition_penalty": (args.repetition_penalty, 1.0),
        "no_repeat_ngram_size": (args.no_repeat_ngram_size, 0),
        "min_length": (args.min_length, 0),
    }
    return {name: value for name, (value, default) in given.items() if value != default}


def add_table_options(command: argparse.ArgumentParser, *, table: bool = True) -> None:
    """Adds `--text-column`, and `--table` if wanted."""
    if table:
        command.add_argument("--table", metavar="FILE", help="file of texts in the corpus (default: recognised)")
    command.add_argument(
        "--text-column",
        metavar="NAME",
        help="column of the text in the table, by number from 1 or by its name in the first row (default: recognised)",
    )


def columns(text: str) -> str:
    """Letters of the recipe's table, each at most once; returned in the table's order."""
    if not text or set(text) - set(COLUMNS) or len(set(text)) != len(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a choice of the letters {', '.join(COLUMNS)}, such as abcd")
    return "".join(sorted(text, key=COLUMNS.index))


def path_with(suffix: str) -> Callable[[str], Path]:
    """The type of paths that end in `suffix`, such as ".wav"."""

    def path_of(text: str) -> Path:
        if not text.lower().endswith(suffix):
            raise argparse.ArgumentTypeError(f"{text!r} does not end in {suffix}")
        return Path(text)

    return path_of


@contextmanager
def in_shell_words(words: Mapping[str, str]) -> Generator[None]:
    """Puts the options of the shell into the messages of errors, in the places of Python's."""
    try:
        yield
    except ValueError as error:
        message = str(error)
        for python, shell in words.items():
            message = message.replace(python, shell)
        raise ValueError(message) from error


def setting(text: str) -> tuple[str, str]:
    """`section.key=value`, as a pair of name and value."""
    name, equals, value = text.partition("=")
    if not equals or "." not in name:
        raise argparse.ArgumentTypeError(f"{text!r} is not SECTION.KEY=VALUE, such as pretrain.steps=900")
    return name.strip(), value.strip()
