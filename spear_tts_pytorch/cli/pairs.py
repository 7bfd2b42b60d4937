"""`spear-tts pairs split | merge | dedupe | stats`: folders of pairs to other ones, or to figures.

`data/pairs/tools.py` does the work. The figures go to stdout as JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from spear_tts_pytorch.cli.arguments import Commands, add_command, in_shell_words, seed


def add_pairs(commands: Commands) -> None:
    """Adds the command `pairs` and its own commands."""
    pairs = add_command(
        commands,
        "pairs",
        None,
        help="merge, split, deduplicate or count folders of pairs",
        description="Merge, split, deduplicate or count folders of pairs of semantic and text ids. "
        "A new folder appears when it is complete.",
        example="pairs stats spear-tts-demo/pairs",
    )
    below = pairs.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (_add_split, _add_merge, _add_dedupe, _add_stats):
        add(below)


def _add_merge(below: Commands) -> None:
    merge = add_command(
        below,
        "merge",
        _merge,
        help="put several folders into a new one",
        description="The folders must have the same description (dataset.json). An id that comes twice is an error unless "
        "--drop-duplicates is given.",
        example="pairs merge split-pairs/train split-pairs/valid --out merged-pairs",
        after="spear-tts pairs split spear-tts-demo/pairs train=0.9 valid=0.1 --out split-pairs",
    )
    merge.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="folders of pairs")
    _add_out(merge)
    merge.add_argument("--drop-duplicates", action="store_true", help="keep the first pair of an id that comes twice")
    merge.add_argument("--mixed", action="store_true", help="allow pairs of different models and options")


def _add_split(below: Commands) -> None:
    split = add_command(
        below,
        "split",
        _split,
        help="deal a folder out to several at random",
        description="DIR then holds a folder for each NAME. Pairs beyond the parts are left out.",
        example="pairs split spear-tts-demo/pairs train=0.9 valid=0.1 --out split-pairs",
    )
    split.add_argument("folder", type=Path, metavar="FOLDER", help="folder of pairs")
    split.add_argument(
        "parts", nargs="+", metavar="NAME=PART", help="shares such as 0.9, or numbers of pairs such as 500"
    )
    _add_out(split)
    split.add_argument("--seed", type=seed, default=0, metavar="N", help="another seed deals otherwise (default 0)")


def _add_dedupe(below: Commands) -> None:
    dedupe = add_command(
        below,
        "dedupe",
        _dedupe,
        help="leave out pairs that come twice",
        description="The first of several equal pairs is kept.",
        example="pairs dedupe spear-tts-demo/pairs --out unique-pairs --by contents",
    )
    dedupe.add_argument("folder", type=Path, metavar="FOLDER", help="folder of pairs")
    _add_out(dedupe)
    dedupe.add_argument(
        "--by",
        choices=("id", "contents"),
        default="id",
        help="pairs are equal if they have the same id, or the same semantic and text ids (default %(default)s)",
    )


def _add_stats(below: Commands) -> None:
    stats = add_command(
        below,
        "stats",
        _stats,
        help="count, and name broken shards",
        description="Numbers, and quantiles of lengths and scores. Every shard is read; broken ones are named.",
        example="pairs stats spear-tts-demo/pairs --ids-per-second 50",
    )
    stats.add_argument("folder", type=Path, metavar="FOLDER", help="folder of pairs")
    stats.add_argument(
        "--ids-per-second", type=float, metavar="N", help="rate of the tokenizer, to count hours of speech"
    )


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")


def _out(args: argparse.Namespace) -> Path:
    """The new folder. No parent of it is a file; that it is new is checked later."""
    from spear_tts_pytorch.utils.files import check_free

    check_free("--out", args.out, ("*",))
    return args.out


def _merge(args: argparse.Namespace) -> int:
    from spear_tts_pytorch.data.pairs.tools import merge

    duplicates = "drop" if args.drop_duplicates else "refuse"
    with in_shell_words({"duplicates='drop'": "--drop-duplicates", "mixed=True": "--mixed"}):
        return _print(merge(args.folders, _out(args), duplicates=duplicates, mixed=args.mixed))


def _split(args: argparse.Namespace) -> int:
    from spear_tts_pytorch.data.pairs.tools import split

    parts = dict(map(_part, args.parts))
    if len(parts) < len(args.parts):
        raise ValueError(f"two parts have one name: {' '.join(args.parts)}")
    return _print(split(args.folder, _out(args), parts, seed=args.seed))


def _part(text: str) -> tuple[str, float | int]:
    """NAME=PART as the name and its share, or its number of pairs."""
    name, _, value = text.partition("=")
    try:
        return name, int(value) if value.isdecimal() else float(value)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a part such as train=0.9 or valid=500") from error


def _dedupe(args: argparse.Namespace) -> int:
    from spear_tts_pytorch.data.pairs.tools import deduplicate

    return _print(deduplicate(args.folder, _out(args), by=args.by))


def _stats(args: argparse.Namespace) -> int:
    from spear_tts_pytorch.data.pairs.tools import stats

    if args.ids_per_second is not None and not args.ids_per_second > 0:
        raise ValueError(f"--ids-per-second must be above 0, got {args.ids_per_second}")
    return _print(stats(args.folder, ids_per_second=args.ids_per_second))


def _print(figures: dict[str, Any]) -> int:
    print(json.dumps(figures, indent=2, ensure_ascii=False))
    return 0
