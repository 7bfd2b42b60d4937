"""`spear-tts generate`: a text to semantic token ids, printed one sample a line, and to their sound."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spear_tts_pytorch.cli.arguments import (
    Commands,
    add_command,
    add_repetition_options,
    path_with,
    positive,
    repetition_options,
    seed,
    temperature,
)
from spear_tts_pytorch.cli.models import open_model

if TYPE_CHECKING:
    from torch import Tensor

    from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
    from spear_tts_pytorch.recipe.saying import Resynthesizer


def add_generate(commands: Commands) -> None:
    """Adds the command `generate`."""
    generate = add_command(
        commands,
        "generate",
        _generate,
        help="a model alone: print the ids of a text, write their sound",
        description="Print the semantic token ids that a trained model says for a text, one sample a line.",
        example='generate spear-tts-demo/model "alice sees seven red cars" --wav said.wav',
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
    add_repetition_options(generate)


def _generate(args: argparse.Namespace) -> int:
    _check(args)
    import torch

    from spear_tts_pytorch.recipe.backtranslation import sample_speech

    model = open_model(args.model)
    wav: Path = args.wav
    resynthesizer = None if args.wav is None else _resynthesizer(model, args.model)
    rows = sample_speech(
        model,
        [args.text] * args.samples,
        temperature=args.temperature,
        max_length=args.max_length,
        generator=torch.Generator(device=model.device).manual_seed(args.seed),
        **repetition_options(args),
    )
    ids = [[int(token) for token in row] for row in rows]
    for sample in ids:
        print(" ".join(map(str, sample)))
    if args.output is not None:
        answer = {
            "text": args.text,
            "semantic_ids": ids,
            "codebook_size": model.num_semantic_token_ids,
            "temperature": args.temperature,
            "seed": args.seed,
        }
        args.output.write_text(json.dumps(answer) + "\n", encoding="utf-8")
    if resynthesizer is not None:
        _write_wavs(resynthesizer, rows, wav)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raises an error for arguments that are wrong whatever the model."""
    from spear_tts_pytorch.utils.files import check_file

    if not args.text.strip():
        raise ValueError('the text is empty; pass what the model shall say, for example "three one four"')
    for flag, path in (("--output", args.output), ("--wav", args.wav)):
        if path is not None:
            check_file(flag, path)


def _resynthesizer(model: TextToSemantic, name: str) -> Resynthesizer:
    """The model's tokenizer, if it turns ids into sound; raises ValueError if not."""
    from spear_tts_pytorch.recipe.saying import Resynthesizer

    if isinstance(model.wav2vec, Resynthesizer):
        return model.wav2vec
    have = "no semantic tokenizer" if model.wav2vec is None else type(model.wav2vec).__name__
    raise ValueError(
        f"--wav: {name} holds {have}, which cannot turn ids into sound; use --output, and a vocoder of your own"
    )


def _write_wavs(resynthesizer: Resynthesizer, rows: Sequence[Tensor], path: Path) -> None:
    """Writes `path`, or for several samples path-1.wav, path-2.wav and so on; skips empty samples and names them."""
    from spear_tts_pytorch.data.audio import save_audio

    for number, row in enumerate(rows, start=1):
        target = path if len(rows) == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        if not len(row):
            print(f"{target} not written: the model said nothing", file=sys.stderr)
            continue
        save_audio(target, resynthesizer.resynthesize(row), resynthesizer.target_sample_hz)
