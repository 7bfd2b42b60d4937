"""`spear-tts say`: texts to sound, with a check of what is heard in it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from spear_tts_pytorch.cli.arguments import Commands, add_command, positive, seed, temperature
from spear_tts_pytorch.cli.models import open_model

if TYPE_CHECKING:
    from spear_tts_pytorch.recipe.saying import Said


def add_say(commands: Commands) -> None:
    """Adds the command `say`."""
    say = add_command(
        commands,
        "say",
        _say,
        help="say texts with the voice, and print what is read back",
        description="Say texts. A voice draws several samples of each, takes the one that its backtranslator reads best, "
        "and prints what is read back and its error. A model alone draws one sample.",
        example='say spear-tts-demo "alice sees seven red cars" --wav said.wav',
    )
    say.add_argument("voice", metavar="VOICE", help="voice folder, model folder or Hub id")
    say.add_argument("text", nargs="?", metavar="TEXT", help="what to say; - reads standard input, a text a line")
    say.add_argument("--file", type=Path, metavar="FILE", help="file of texts, one a line")
    say.add_argument("--wav", type=Path, metavar="FILE|DIR", help="a .wav file for one text; a folder for several")
    say.add_argument("--candidates", type=positive, metavar="N", help="samples of a text (default: as in voice.toml)")
    say.add_argument(
        "--temperature", type=temperature, metavar="T", help="of these (default: as in voice.toml, or 0.5)"
    )
    say.add_argument("--seed", type=seed, default=0, metavar="N", help="of these (default %(default)s)")


def _say(args: argparse.Namespace) -> int:
    texts = _texts(args)
    paths = _paths(args.wav, len(texts))
    from spear_tts_pytorch.recipe.resynthesis import network_of
    from spear_tts_pytorch.recipe.saying import say
    from spear_tts_pytorch.recipe.voice import SETTINGS, Voice

    if (Path(args.voice) / SETTINGS).is_file():
        how = {"candidates": args.candidates, "temperature": args.temperature, "seed": args.seed}
        said = Voice(args.voice, progress=False).say(texts, **how)
    elif args.candidates is not None:
        raise ValueError(f"--candidates {args.candidates} is for a voice, whose backtranslator chooses: leave it out")
    else:
        how = {} if args.temperature is None else {"temperature": args.temperature}
        model = open_model(args.voice)
        said = say(model, texts, seed=args.seed, resynthesizer=network_of(Path(args.voice), model.wav2vec), **how)
    for number, one in enumerate(said):
        print(_line(one), flush=True)
        if paths:
            _write(one, paths[number])
    return 0


def _texts(args: argparse.Namespace) -> list[str]:
    given = [args.text is not None, args.file is not None]
    if sum(given) != 1:
        raise ValueError('give one of TEXT and --file; for example: spear-tts say my-voice "three one four"')
    if args.file is not None:
        if not args.file.is_file():
            raise FileNotFoundError(f"--file {args.file}: there is no such file")
        try:
            lines = args.file.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"--file {args.file} is not text in UTF-8 ({error.reason}): convert it") from error
    else:
        lines = sys.stdin.read().splitlines() if args.text == "-" else [args.text]
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise ValueError("there is no text to say: every line is empty")
    return texts


def _paths(place: Path | None, count: int) -> list[Path]:
    """The file for each text: `place` itself for one text, else numbered files in the folder `place`."""
    if place is None:
        return []
    from spear_tts_pytorch.utils.files import check_file, check_free

    if place.suffix.lower() == ".wav":
        if count > 1:
            raise ValueError(f"--wav {place}: there are {count} texts, so give a folder")
        check_file("--wav", place)
        return [place]
    if place.suffix and not place.is_dir():
        raise ValueError(f"--wav {place} is neither a .wav nor a folder: give {place.with_suffix('.wav')}, or a folder")
    check_free("--wav", place, ("*",))
    place.mkdir(parents=True, exist_ok=True)
    return [place / f"{number:04d}.wav" for number in range(1, count + 1)]


def _line(one: Said) -> str:
    if one.read_back is None:
        return f"{one.text}\t{len(one.ids)} ids"
    return f"{one.text}\t{one.read_back}\t{one.error:.1f} %"


def _write(one: Said, path: Path) -> None:
    if not len(one.ids):
        print(f"{path} not written: the model said nothing", file=sys.stderr)
    else:
        one.save(path)
