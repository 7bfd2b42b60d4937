"""`spear-tts demo`: the whole recipe on a small corpus. Writes a folder with the model, a report, plots and sound."""

from __future__ import annotations

import argparse
from pathlib import Path

from spear_tts_pytorch.cli.arguments import (
    Commands,
    add_command,
    add_no_progress,
    add_table_options,
    columns,
    positive,
    seed,
)


def add_demo(commands: Commands) -> None:
    """Adds the command `demo`."""
    demo = add_command(
        commands,
        "demo",
        _demo,
        help="the same as new and run, on speech that is made here",
        description="Run the whole recipe on a small corpus: tokenizer, pretraining, backtranslation, pseudo-labels, "
        "text to speech, evaluation. --output is a voice folder: `spear-tts run` and `say` go on with it.",
        example="demo --quick",
        after=None,
    )
    demo.add_argument("--quick", action="store_true", help="smaller and shorter: about a minute, figures mean little")
    demo.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of everything random (default 0)")
    demo.add_argument("--output", type=Path, default=Path("spear-tts-demo"), metavar="DIR", help="default %(default)s")
    demo.add_argument("--labelled", type=positive, metavar="N", help="utterances whose text may be used (default 60)")
    demo.add_argument(
        "--corpus",
        metavar="SPEC",
        help="FOLDER in LJSpeech's layout, or fsdd:FOLDER for the Free Spoken Digit Dataset (default: speech made here "
        "by espeak-ng)",
    )
    demo.add_argument(
        "--columns",
        type=columns,
        default="ad",
        metavar="LETTERS",
        help="which of a (scratch), b (pretrained), c (backtranslation), d (both), A (all texts) to run (default %(default)s)",
    )
    add_table_options(demo, table=False)
    demo.add_argument("--speaker", metavar="NAME", help="take this speaker of a corpus with several")
    demo.add_argument("--overwrite", action="store_true", help="replace the folder of an earlier demo")
    add_no_progress(demo)


def _demo(args: argparse.Namespace) -> int:
    from spear_tts_pytorch.recipe.demo import run_demo

    run_demo(
        corpus=args.corpus,
        labelled=args.labelled,
        seed=args.seed,
        output=args.output,
        columns=args.columns,
        quick=args.quick,
        overwrite=args.overwrite,
        speaker=args.speaker,
        text_column=args.text_column,
        progress=args.progress or "lines",
    )
    return 0
