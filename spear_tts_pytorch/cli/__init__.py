"""The shell: `spear-tts demo`, `generate`, `tokenize`, `label`, `pairs` and `version`.

Arguments come in, exit codes go out: 0 done, 1 done but for some items, 2 something the user can mend (one line on
stderr, `SPEAR_TTS_DEBUG=1` shows where), 130 interrupted, 143 terminated. Commands import what they need when they run,
so that `--help` is instant.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from spear_tts_pytorch.cli.arguments import columns, path_with, positive, seed, temperature
from spear_tts_pytorch.cli.label import add_label
from spear_tts_pytorch.cli.pairs import add_pairs
from spear_tts_pytorch.training.signals import terminating
from spear_tts_pytorch.version import __version__

if TYPE_CHECKING:
    from torch import Tensor

    from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
    from spear_tts_pytorch.tokenizers.semantic import SemanticTokenizer

# OSError covers missing, existing and unreadable files, a full disk and a hub that cannot be reached.
USER_ERRORS = (ValueError, OSError, ImportError)
DEFAULT_CLUSTERS = 100


class _Parser(argparse.ArgumentParser):
    """argparse, with its own errors reported like every other: one line, then exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see `{self.prog} --help`")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments after the program's name; default: those of the process.

    Returns: exit code: 0, 2 for an error that the user can mend, 130 after Ctrl-C, 143 after SIGTERM.
    """
    try:
        args = _parser().parse_args(argv)
        with terminating():
            args.command(args)
    except SystemExit as exit_request:  # --help has printed what it had to
        return int(exit_request.code or 0)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except USER_ERRORS as error:
        if os.environ.get("SPEAR_TTS_DEBUG") == "1":
            raise
        print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 2
    return 0


def _demo(args: argparse.Namespace) -> None:
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
        progress=args.progress,
    )


def _generate(args: argparse.Namespace) -> None:
    if not args.text.strip():
        raise ValueError('the text is empty; pass what the model shall say, for example "three one four"')
    for flag, path in (("--output", args.output), ("--wav", args.wav)):
        if path is not None and not path.parent.is_dir():
            raise FileNotFoundError(f"{flag} {path}: there is no folder {path.parent}; make it first")

    import torch

    model = _load(args.model)
    if args.wav is not None:
        _require_resynthesis(model, args.model)
    rows = _sample(model, args, torch.Generator(device=model.device).manual_seed(args.seed))
    for row in rows:
        print(" ".join(map(str, row.tolist())))
    if args.output is not None:
        answer = {
            "text": args.text,
            "semantic_ids": [row.tolist() for row in rows],
            "codebook_size": model.num_semantic_token_ids,
            "temperature": args.temperature,
            "seed": args.seed,
        }
        args.output.write_text(json.dumps(answer) + "\n", encoding="utf-8")
    if args.wav is not None:
        _write_wavs(model, rows, args.wav)


def _tokenize(args: argparse.Namespace) -> None:
    from spear_tts_pytorch.data.corpora.readers import read_corpus
    from spear_tts_pytorch.data.tokenized import fit_tokenizer, tokenize_corpus
    from spear_tts_pytorch.tokenizers.consecutive import UniqueConsecutive
    from spear_tts_pytorch.tokenizers.semantic import load_semantic_tokenizer
    from spear_tts_pytorch.utils.files import locked

    own = args.output / "tokenizer"
    saved = args.tokenizer or (own if (own / "tokenizer.json").is_file() else None)
    if saved is not None:
        tokenizer = load_semantic_tokenizer(saved)
        _check_asked_for(args, tokenizer, saved)
    utterances = list(read_corpus(args.corpus))
    if saved is None:
        with locked(args.output):
            clusters = DEFAULT_CLUSTERS if args.clusters is None else args.clusters
            tokenizer = fit_tokenizer(utterances, clusters, seed=args.seed, progress=args.progress)
            tokenizer = UniqueConsecutive(tokenizer) if args.unique else tokenizer
            tokenizer.save(own)
    workers = args.workers if args.workers > 1 else 0
    report = tokenize_corpus(utterances, tokenizer, args.output, workers=workers, progress=args.progress)
    left_out = f", {len(report.skipped)} left out (see {args.output / 'report.json'})" if report.skipped else ""
    print(f"{report.clips} clips, {report.hours:.2f} hours in {args.output}{left_out}")


def _check_asked_for(args: argparse.Namespace, tokenizer: SemanticTokenizer, saved: Path | str) -> None:
    """Raises ValueError for what is asked of a fitted tokenizer and differs in the one that is there."""
    there = f"the tokenizer in {saved} is taken, which"
    remedy = "leave the option out, or choose another OUT without --tokenizer"
    if args.clusters not in (None, tokenizer.codebook_size):
        raise ValueError(f"--clusters {args.clusters}: {there} has {tokenizer.codebook_size} ids: {remedy}")
    if args.unique and not getattr(tokenizer, "unique_consecutive", False):
        raise ValueError(f"--unique: {there} repeats ids: {remedy}")


def _load(name: str) -> TextToSemantic:
    from huggingface_hub.utils import logging as hub_logging

    from spear_tts_pytorch.model.text_to_semantic import TextToSemantic

    hub_logging.set_verbosity_error()  # it warns of what the error below says
    try:
        return TextToSemantic.from_pretrained(name).eval()
    except (OSError, ValueError) as error:
        if Path(name).is_dir():
            raise
        # What is no folder was asked of the Hub, whose message does not name a mistyped folder.
        raise FileNotFoundError(f"MODEL {name}: there is no such folder, and the Hub says: {error}") from error


def _sample(model: TextToSemantic, args: argparse.Namespace, generator: object) -> list[Tensor]:
    """args.samples rows of semantic ids [n] for one text, without pad, end of sequence and, if speech has none, repeats."""
    from spear_tts_pytorch.tokenizers.consecutive import as_tokenized
    from spear_tts_pytorch.tokens import strip

    ids = model.generate(
        [args.text] * args.samples,
        source_type="text",
        target_type="speech",
        temperature=args.temperature,
        max_length=args.max_length,
        generator=generator,
    )
    return as_tokenized(
        [strip(row.cpu(), model.pad_id["speech"], model.eos_id["speech"]) for row in ids], model.wav2vec
    )


def _require_resynthesis(model: TextToSemantic, name: str) -> None:
    if not hasattr(model.wav2vec, "resynthesize"):
        have = "no semantic tokenizer" if model.wav2vec is None else type(model.wav2vec).__name__
        raise ValueError(
            f"--wav: {name} holds {have}, which cannot turn ids into sound; use --output, and a vocoder of your own"
        )


def _write_wavs(model: TextToSemantic, rows: Sequence[Tensor], path: Path) -> None:
    """One file, or for several samples path-1.wav, path-2.wav and so on; empty samples are named and skipped."""
    from spear_tts_pytorch.data.audio import save_audio

    for number, row in enumerate(rows, start=1):
        target = path if len(rows) == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        if not len(row):
            print(f"{target} not written: the model said nothing", file=sys.stderr)
            continue
        save_audio(target, model.wav2vec.resynthesize(row), model.wav2vec.target_sample_hz)


def _version(args: argparse.Namespace) -> None:
    # Read from the installed metadata: importing torch takes seconds.
    print(f"spear-tts-pytorch {__version__}, torch {metadata.version('torch')}, Python {sys.version.split()[0]}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="spear-tts",
        description="Text to semantic speech tokens from a little transcribed speech.",
        epilog="example: spear-tts demo --quick",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_generate(commands)
    _add_tokenize(commands)
    add_label(commands)
    add_pairs(commands)
    command = commands.add_parser(
        "version", help="print the versions that a bug report needs", epilog="example: spear-tts version"
    )
    command.set_defaults(command=_version)
    return parser


def _add_demo(commands: argparse._SubParsersAction) -> None:
    demo = commands.add_parser(
        "demo",
        help="run the whole recipe on a small corpus and print what pretraining and backtranslation bring",
        description="Run the whole recipe on a small corpus: tokenizer, pretraining, backtranslation, pseudo-labels, "
        "final model, evaluation. Writes a table, plots, three WAVs and the model to --output.",
        epilog="example: spear-tts demo --corpus fsdd:free-spoken-digit-dataset --labelled 15 --output digits",
    )
    demo.add_argument("--quick", action="store_true", help="smaller and shorter: about a minute, figures mean little")
    demo.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of everything random (default 0)")
    demo.add_argument("--output", type=Path, default=Path("spear-tts-demo"), metavar="DIR", help="default %(default)s")
    demo.add_argument("--labelled", type=positive, metavar="N", help="utterances whose text may be used")
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
        help="which of a (scratch), b (pretrained), c (backtranslation), d (both) to run (default %(default)s)",
    )
    demo.add_argument("--speaker", metavar="NAME", help="take this speaker of a corpus with several")
    demo.add_argument("--overwrite", action="store_true", help="replace what --output holds")
    demo.add_argument("--no-progress", dest="progress", action="store_false", help="no progress bars")
    demo.set_defaults(command=_demo)


def _add_generate(commands: argparse._SubParsersAction) -> None:
    generate = commands.add_parser(
        "generate",
        help="say a text: print semantic token ids, write them or their sound to a file",
        description="Print the semantic token ids that a trained model says for a text, one sample a line.",
        epilog='example: spear-tts generate spear-tts-demo/model "three one four" --wav out.wav',
    )
    generate.add_argument("model", metavar="MODEL", help="folder written by save_pretrained, or a Hub id")
    generate.add_argument("text", metavar="TEXT", help="what to say")
    generate.add_argument("--output", type=path_with(".json"), metavar="FILE.json", help="write the ids there as well")
    generate.add_argument("--wav", type=path_with(".wav"), metavar="FILE.wav", help="write their sound there")
    generate.add_argument(
        "--temperature", type=temperature, default=0.3, metavar="T", help="0 is greedy (default %(default)s)"
    )
    generate.add_argument("--samples", type=positive, default=1, metavar="N", help="how many (default %(default)s)")
    generate.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of sampling (default %(default)s)")
    generate.add_argument(
        "--max-length", type=positive, default=2048, metavar="N", help="at most N ids a sample (default %(default)s)"
    )
    generate.set_defaults(command=_generate)


def _add_tokenize(commands: argparse._SubParsersAction) -> None:
    tokenize = commands.add_parser(
        "tokenize",
        help="turn a folder of audio, or a corpus, into Parquet files of semantic token ids",
        description="Turn audio into semantic token ids. CORPUS is a folder of audio, or in the layout of LJSpeech, "
        "LibriSpeech, LibriTTS, Common Voice or VCTK. Work that was interrupted goes on.",
        epilog="example: spear-tts tokenize LJSpeech-1.1 lj-ids --clusters 100 --workers 4",
    )
    tokenize.add_argument("corpus", metavar="CORPUS", help="folder of the corpus")
    tokenize.add_argument("output", type=Path, metavar="OUT", help="folder to write")
    tokenize.add_argument(
        "--tokenizer", metavar="FOLDER", help="a saved tokenizer; without it OUT's own, fitted on CORPUS the first time"
    )
    tokenize.add_argument(
        "--clusters", type=positive, metavar="N", help=f"ids of a fitted tokenizer (default {DEFAULT_CLUSTERS})"
    )
    tokenize.add_argument("--unique", action="store_true", help="a fitted tokenizer leaves out repeats")
    tokenize.add_argument("--workers", type=positive, default=1, metavar="N", help="processes (default %(default)s)")
    tokenize.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of fitting (default %(default)s)")
    tokenize.add_argument("--no-progress", dest="progress", action="store_false", help="no progress bar")
    tokenize.set_defaults(command=_tokenize)
