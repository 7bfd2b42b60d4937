"""The shell's `spear-tts pairs merge | split | dedupe | stats`.

Arguments come in, `data/pair_tools.py` does the work when a command runs, figures go to stdout as JSON. Knows no pairs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add_pairs(commands: argparse._SubParsersAction) -> None:
    """Adds the command `pairs` and those below it."""
    pairs = commands.add_parser(
        "pairs",
        help="merge, split, deduplicate or count folders of pairs",
        description="Folders of pairs of semantic and text ids: put together, dealt out, without repetitions, counted. "
        "New folders appear when they are complete and not before.",
        epilog="example: spear-tts pairs stats results/pairs",
    )
    below = pairs.add_subparsers(title="commands", metavar="COMMAND", required=True)

    merge = _add(
        below,
        "merge",
        _merge,
        "put several folders into a new one",
        "Folders of one description are merged; an id that comes twice is an error unless --drop-duplicates is given.",
        "run1 run2 --out all",
    )
    merge.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="folders of pairs")
    _add_out(merge)
    merge.add_argument("--drop-duplicates", action="store_true", help="keep the first pair of an id that comes twice")
    merge.add_argument("--mixed", action="store_true", help="allow pairs of different models and options")

    split = _add(
        below,
        "split",
        _split,
        "deal a folder out to several at random",
        "DIR then holds a folder for each NAME. What is left over goes nowhere.",
        "pairs train=0.98 valid=0.02 --out parts",
    )
    split.add_argument("folder", type=Path, metavar="FOLDER", help="folder of pairs")
    split.add_argument(
        "parts", nargs="+", metavar="NAME=PART", help="shares such as 0.9, or numbers of pairs such as 500"
    )
    _add_out(split)
    split.add_argument("--seed", type=int, default=0, metavar="N", help="another seed deals otherwise (default 0)")

    dedupe = _add(
        below,
        "dedupe",
        _dedupe,
        "leave out what comes twice",
        "Of equal pairs the first is kept.",
        "pairs --out clean --by contents",
    )
    dedupe.add_argument("folder", type=Path, metavar="FOLDER", help="folder of pairs")
    _add_out(dedupe)
    dedupe.add_argument(
        "--by",
        choices=("id", "contents"),
        default="id",
        help="what is the same: the id, or all ids (default %(default)s)",
    )

    stats = _add(
        below,
        "stats",
        _stats,
        "count, and name broken shards",
        "Numbers, and quantiles of lengths and scores. Every shard is read; broken ones are named.",
        "pairs --ids-per-second 50",
    )
    stats.add_argument("folder", type=Path, metavar="FOLDER", help="folder of pairs")
    stats.add_argument("--ids-per-second", type=float, metavar="N", help="of the tokenizer: gives hours of speech")


def _add(
    below: argparse._SubParsersAction, name: str, run: Any, text: str, description: str, example: str
) -> argparse.ArgumentParser:
    epilog = f"example: spear-tts pairs {name} {example}"
    parser = below.add_parser(name, help=text, description=description, epilog=epilog)
    parser.set_defaults(command=run)
    return parser


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")


def _merge(args: argparse.Namespace) -> None:
    from spear_tts_pytorch.data.pairs.tools import merge

    _print(merge(args.folders, args.out, duplicates="drop" if args.drop_duplicates else "refuse", mixed=args.mixed))


def _split(args: argparse.Namespace) -> None:
    from spear_tts_pytorch.data.pairs.tools import split

    parts = dict(map(_part, args.parts))
    if len(parts) < len(args.parts):
        raise ValueError(f"two parts have one name: {' '.join(args.parts)}")
    _print(split(args.folder, args.out, parts, seed=args.seed))


def _part(text: str) -> tuple[str, float | int]:
    name, _, value = text.partition("=")
    try:
        return name, int(value) if value.isdecimal() else float(value)
    except ValueError as error:
        raise ValueError(f"{text!r} is no part such as train=0.9 or valid=500") from error


def _dedupe(args: argparse.Namespace) -> None:
    from spear_tts_pytorch.data.pairs.tools import deduplicate

    _print(deduplicate(args.folder, args.out, by=args.by))


def _stats(args: argparse.Namespace) -> None:
    from spear_tts_pytorch.data.pairs.tools import stats

    if args.ids_per_second is not None and not args.ids_per_second > 0:
        raise ValueError(f"--ids-per-second must be above 0, got {args.ids_per_second}")
    _print(stats(args.folder, ids_per_second=args.ids_per_second))


def _print(found: dict[str, Any]) -> None:
    print(json.dumps(found, indent=2, ensure_ascii=False))
