"""A tiny voice of made-up clips, for tests: sizes that learn next to nothing in seconds; and surveys of any data."""

from collections import Counter
from pathlib import Path

from babble import HZ, make_clips

from spear_tts_pytorch.data.audio import save_audio
from spear_tts_pytorch.recipe.survey import Survey

WORDS = "one two three four five six seven".split()
TINY = {
    "units.clusters": 24,
    "model.dim": 32,
    "model.depth": 1,
    "model.heads": 2,
    "training.batch_tokens": 800,
    "training.save_every": 2,
    "pretrain.steps": 5,
    "backtranslate.steps": 6,
    "train.steps": 5,
    "train.finetune_steps": 2,
    "evaluate.scratch_steps": 3,
    "evaluate.judge_steps": 8,
    "evaluate.candidates": 2,
}


def text(number: int) -> str:
    """A text of three words, another one for each number below 343."""
    return " ".join(WORDS[number // 7**place % 7] for place in range(3))


def corpus(folder: Path, clips: int = 24, texts: int = 14) -> Path:
    """A folder in LJSpeech's layout; the first `texts` clips have a text."""
    (folder / "wavs").mkdir(parents=True)
    for number, wav in enumerate(make_clips()[:clips]):
        save_audio(folder / "wavs" / f"clip{number:02d}.wav", wav, HZ)
    rows = [f"clip{number:02d}|{text(number)}\n" for number in range(texts)]
    (folder / "metadata.csv").write_text("".join(rows), encoding="utf-8")
    return folder


def found(hours: float, minutes: float, *, known: float | None = None, transcribed: float = 0.0) -> Survey:
    """A survey of so many hours of audio and minutes of text; `known` are hours with a text, `transcribed` minutes."""
    nothing = Counter[str]()
    return Survey(
        clips=100,
        seconds=3600 * hours,
        labelled=50,
        labelled_seconds=60 * minutes,
        test=10,
        unlabelled=40,
        rates=Counter[int](),
        speakers=nothing,
        alphabet=nothing,
        transcribed_seconds=60 * transcribed,
        known_seconds=3600 * (hours if known is None else known),
    )
