"""`spear-tts table`: the paper's table for a corpus, the error of each column by labelled minutes."""

from __future__ import annotations

import argparse

from spear_tts_pytorch.cli.arguments import Commands, add_command, add_no_progress, columns, positive


def add_table(commands: Commands) -> None:
    """Adds the command `table`."""
    table = add_command(
        commands,
        "table",
        _table,
        help="the paper's table: errors by labelled minutes",
        description="Train a voice for each number of labelled minutes and each seed, and write the character error rates of "
        "the paper's columns into VOICE/table/: table.md, table.json, table.png and sounds. Minutes are drawn from the clips "
        "with a text that is not tested; those of 5 minutes are among those of 15. The rows share units, ids, pretraining and "
        "judge with VOICE. A table that was interrupted goes on; a row is made again only if its inputs have changed.",
        example="table spear-tts-demo --labelled 1,all --columns ad --seeds 1",
    )
    table.add_argument("voice", metavar="VOICE", help="folder that `spear-tts new` made")
    table.add_argument(
        "--labelled",
        type=_minutes,
        metavar="MINUTES",
        help="minutes between commas, and all (default: 5,15,30,60 as far as there are so many, and all)",
    )
    table.add_argument(
        "--columns",
        type=columns,
        default="abcd",
        metavar="LETTERS",
        help="which of a (scratch), b (pretrained), c (backtranslation), d (both), A (all texts) to run (default %(default)s)",
    )
    table.add_argument("--seeds", type=positive, default=3, metavar="N", help="seeds of each row (default %(default)s)")
    add_no_progress(table)


def _minutes(text: str) -> list[float | str]:
    """Numbers above 0 between commas, or "all" among them."""
    made: list[float | str] = []
    for part in text.split(","):
        word = part.strip()
        try:
            made.append(word if word == "all" else float(word))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not minutes between commas, such as 5,15,all") from None
    return made


def _table(args: argparse.Namespace) -> int:
    from spear_tts_pytorch.recipe.table import make_table
    from spear_tts_pytorch.recipe.voice import Voice

    voice = Voice(args.voice, progress=args.progress or "lines")
    make_table(voice, args.labelled, columns=args.columns, seeds=args.seeds)
    return 0
