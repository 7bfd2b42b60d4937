"""`spear-tts label`: speech to a folder of pseudo-labelled pairs.

The exit code is 1 if some items could not be labelled; stderr names them.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spear_tts_pytorch.cli.arguments import (
    Commands,
    add_command,
    add_no_progress,
    add_repetition_options,
    add_table_options,
    positive,
    repetition_options,
)
from spear_tts_pytorch.cli.models import open_model
from spear_tts_pytorch.cli.voice import add_set

if TYPE_CHECKING:
    from spear_tts_pytorch.data.corpora.readers import Waveforms
    from spear_tts_pytorch.data.tokenized import TokenizedSpeech
    from spear_tts_pytorch.model.text_to_semantic import TextToSemantic

SOME_FAILED = 1
OURS = ("pairs-*.parquet", "dataset.json", "[0-9]*.pt")  # in OUT
OF_MODEL = (  # options that a voice has no use for
    *("table", "text_column", "batch_size", "beam_size", "max_length", "workers", "report", "overwrite"),
    *("repetition_penalty", "no_repeat_ngram_size", "min_length"),
)


def add_label(commands: Commands) -> None:
    """Adds the command `label`."""
    label = add_command(
        commands,
        "label",
        _label,
        help="4. read the clips without a text: more pairs to learn from",
        description="One stage of `spear-tts run`, if a voice folder is given. Else MODEL reads SPEECH, and pairs of semantic "
        "and text ids go to OUT, a folder of Parquet files. Work that was interrupted goes on. Under `accelerate launch` all "
        "processes share the work. Exit code 1: done, but some items could not be labelled.",
        example="label spear-tts-demo",
    )
    label.add_argument("model", metavar="VOICE|MODEL", help="voice folder alone; or model folder or Hub id")
    label.add_argument(
        "speech", type=Path, nargs="?", metavar="SPEECH", help="folder written by `spear-tts tokenize`, or a corpus"
    )
    add_table_options(label)
    label.add_argument("output", type=Path, nargs="?", metavar="OUT", help="folder of pairs")
    label.add_argument(
        "--batch-size", type=positive, default=32, metavar="N", help="clips at once (default %(default)s)"
    )
    label.add_argument("--beam-size", type=positive, default=4, metavar="N", help="1 is greedy (default %(default)s)")
    label.add_argument(
        "--max-length", type=positive, default=512, metavar="N", help="at most N ids of text (default %(default)s)"
    )
    add_repetition_options(label)
    label.add_argument(
        "--workers", type=positive, default=1, metavar="N", help="processes that read (default %(default)s)"
    )
    label.add_argument("--report", type=Path, metavar="DIR", help="also write counts, examples and histograms there")
    label.add_argument("--overwrite", action="store_true", help="remove the pairs in OUT first")
    label.add_argument("--again", action="store_true", help="of a voice: label also what is done, from the beginning")
    add_set(label)
    add_no_progress(label)
    label.set_defaults(usual={name: label.get_default(name) for name in OF_MODEL})


def _label(args: argparse.Namespace) -> int:
    if args.speech is None:
        return _label_voice(args)
    if args.again or args.changes:
        raise ValueError(f"{'--again' if args.again else '--set'} is for a voice: leave it out, or give VOICE alone")
    if args.output is None:
        raise ValueError(f"OUT is missing: give a folder for the pairs of {args.speech}")
    from spear_tts_pytorch.utils.files import check_free

    check_free("OUT", args.output, OURS)
    if args.report is not None:
        check_free("--report", args.report, ("*",))
    from spear_tts_pytorch.data.generator import SemanticToTextDatasetGenerator
    from spear_tts_pytorch.data.pairs.dataset import GeneratedAudioTextDataset
    from spear_tts_pytorch.data.quality import report

    model = open_model(args.model)
    generator = SemanticToTextDatasetGenerator(
        model,
        dataset=_speech(args, model),
        folder=args.output,
        batch_size=args.batch_size,
        num_workers=args.workers if args.workers > 1 else 0,
        progress=args.progress,
    )
    strategy: dict[str, Any] = {"beam_size": args.beam_size} if args.beam_size > 1 else {"temperature": 0.0}
    strategy |= repetition_options(args)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the lines below say the same
        counts = generator(args.max_length, args.beam_size > 1, overwrite=args.overwrite, **strategy)
    print(json.dumps(counts))
    for name, reason in generator.problems.items():
        print(f"left out: {name}: {reason}", file=sys.stderr)
    if args.report is not None:
        report(GeneratedAudioTextDataset(args.output), args.report)
    return SOME_FAILED if counts["failed"] else 0


def _label_voice(args: argparse.Namespace) -> int:
    """The stage of a voice."""
    from spear_tts_pytorch.recipe.voice import Voice

    for name in OF_MODEL:
        if getattr(args, name) != args.usual[name]:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} is for MODEL SPEECH OUT: leave it out, a voice has settings (see --set)")
    Voice.open(args.model, dict(args.changes), progress=args.progress or "lines").label(again=args.again)
    return 0


def _speech(args: argparse.Namespace, model: TextToSemantic) -> TokenizedSpeech | Waveforms:
    """The ids of a tokenized folder, or else the audio of a corpus at the rate of the model's tokenizer."""
    from spear_tts_pytorch.data.corpora.readers import Waveforms, read_corpus
    from spear_tts_pytorch.data.tokenized import TokenizedSpeech

    folder: Path = args.speech
    if next(folder.glob("speech-*.parquet"), None):
        return TokenizedSpeech(folder)
    if model.wav2vec is None:
        raise ValueError(f"the model cannot tokenize audio: give a folder that `spear-tts tokenize {folder} OUT` wrote")
    return Waveforms(
        list(read_corpus(folder, table=args.table, text_column=args.text_column)), model.wav2vec.target_sample_hz
    )
