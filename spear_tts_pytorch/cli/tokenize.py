"""`spear-tts tokenize`: a corpus to a folder of Parquet files of semantic token ids.

A tokenizer is given, is the one that an earlier run left in the output folder, or is fitted on the corpus and saved there.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from spear_tts_pytorch.cli.arguments import (
    Commands,
    add_command,
    add_no_progress,
    add_table_options,
    in_shell_words,
    positive,
    seed,
)

if TYPE_CHECKING:
    from spear_tts_pytorch.tokenizers.semantic import SemanticTokenizer

DEFAULT_CLUSTERS = 100
# In OUT; the last is what a run leaves that was killed while it saved its tokenizer.
OURS = ("speech-*.parquet", "tokenizer_of_ids.json", "tokenizer/tokenizer.json", "tokenizer/.*")


def add_tokenize(commands: Commands) -> None:
    """Adds the command `tokenize`."""
    tokenize = add_command(
        commands,
        "tokenize",
        _tokenize,
        help="a tokenizer alone: turn audio into Parquet files of ids",
        description="Turn audio into semantic token ids. CORPUS is a folder of audio, or one in the layout of LJSpeech, "
        "LibriSpeech, LibriTTS, Common Voice or VCTK, or with a table of texts. Work that was interrupted goes on.",
        example="tokenize spear-tts-demo/audio demo-ids --tokenizer spear-tts-demo/model/semantic_tokenizer",
    )
    tokenize.add_argument("corpus", metavar="CORPUS", help="folder of the corpus")
    tokenize.add_argument("output", type=Path, metavar="OUT", help="folder to write")
    tokenize.add_argument(
        "--tokenizer", metavar="FOLDER", help="a saved tokenizer; without it OUT's own, fitted on CORPUS the first time"
    )
    add_table_options(tokenize)
    tokenize.add_argument(
        "--clusters", type=positive, metavar="N", help=f"ids of a fitted tokenizer (default {DEFAULT_CLUSTERS})"
    )
    tokenize.add_argument("--unique", action="store_true", help="a fitted tokenizer leaves out repeats")
    tokenize.add_argument("--workers", type=positive, default=1, metavar="N", help="processes (default %(default)s)")
    tokenize.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of fitting (default %(default)s)")
    add_no_progress(tokenize)


def _tokenize(args: argparse.Namespace) -> int:
    from spear_tts_pytorch.data.corpora.readers import read_corpus
    from spear_tts_pytorch.data.tokenized import fit_tokenizer, tokenize_corpus
    from spear_tts_pytorch.tokenizers.consecutive import UniqueConsecutive
    from spear_tts_pytorch.tokenizers.semantic import load_semantic_tokenizer
    from spear_tts_pytorch.utils.files import check_free, locked

    check_free("OUT", args.output, OURS)
    own = args.output / "tokenizer"
    own_exists = (own / "tokenizer.json").is_file()
    saved: str | Path | None = args.tokenizer or (own if own_exists else None)
    tokenizer: SemanticTokenizer | None = None
    if saved is not None:
        tokenizer = load_semantic_tokenizer(saved)
        _check_same(args, tokenizer, saved)
    utterances = list(read_corpus(args.corpus, table=args.table, text_column=args.text_column))
    if tokenizer is None:
        with locked(args.output):
            clusters = DEFAULT_CLUSTERS if args.clusters is None else args.clusters
            with in_shell_words({f"num_clusters={clusters}": f"--clusters {clusters}"}):
                fitted = fit_tokenizer(utterances, clusters, seed=args.seed, progress=args.progress)
            fitted = UniqueConsecutive(fitted) if args.unique else fitted
            fitted.save(own)
            tokenizer = fitted
    workers = args.workers if args.workers > 1 else 0
    report = tokenize_corpus(utterances, tokenizer, args.output, workers=workers, progress=args.progress)
    left_out = f", {len(report.skipped)} left out (see {args.output / 'report.json'})" if report.skipped else ""
    print(f"{report.clips} clips, {report.hours:.2f} hours in {args.output}{left_out}")
    return 0


def _check_same(args: argparse.Namespace, tokenizer: SemanticTokenizer, saved: Path | str) -> None:
    """Raises ValueError if the options ask for another tokenizer than the saved one."""
    there = f"the tokenizer in {saved} is taken, which"
    remedy = "leave the option out, or choose another OUT without --tokenizer"
    if args.clusters not in (None, tokenizer.codebook_size):
        raise ValueError(f"--clusters {args.clusters}: {there} has {tokenizer.codebook_size} ids: {remedy}")
    if args.unique and not getattr(tokenizer, "unique_consecutive", False):
        raise ValueError(f"--unique: {there} repeats ids: {remedy}")
