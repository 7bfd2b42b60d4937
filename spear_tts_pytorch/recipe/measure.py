"""Stage 6: what a judge understands of a model's speech.

In: a model, a judge, test texts with their true ids. Out: a `Column` of the paper's table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.recipe.backtranslation import CTCBacktranslator, speak
from spear_tts_pytorch.recipe.evaluate import SemanticASR
from spear_tts_pytorch.recipe.settings import Settings
from spear_tts_pytorch.recipe.stages import Rows
from spear_tts_pytorch.tokenizers.text import CharacterTokenizer
from spear_tts_pytorch.utils.metrics import bootstrap_interval, character_errors, token_errors

Interval = tuple[float, float]


@dataclass
class Heard:
    """What is heard in rows of ids that say the test's texts.

    Attributes:
        cer: character error rate of a recogniser, percent; None without one.
        interval: the 95 % bootstrap interval of `cer`.
        mcd: mel-cepstral distortion to the recordings, dB; None if nothing was said.
    """

    cer: float | None
    interval: Interval | None
    mcd: float | None


Listener = Callable[[Sequence[Tensor]], Heard]  # to rows of ids `[n]`, one for each text of the test


@dataclass
class Column:
    """A column of the table: the character error rates of a model's speech of the test texts.

    Attributes:
        cer: of greedy decoding, percent.
        interval: the 95 % bootstrap interval of `cer`; other intervals are of this kind, too.
        cer_best: of the best of several samples, percent. The backtranslator chooses, in all columns alike; None if there
            is one sample only.
        best_interval: of `cer_best`.
        uer: of greedy decoding, the share of speech ids that differ from those of the true speech of the same texts,
            percent: insertions, deletions and substitutions (unit error rate). It needs no judge.
        uer_interval: of `uer`.
        length_ratio: ids generated for each true id.
        resynthesis_cer, resynthesis_interval: as `cer` and `interval`, read by a public recogniser in spectra that are made
            of the ids; None without one.
        resynthesis_cer_best, resynthesis_interval_best: the same of the best of several samples.
        mcd, mcd_best: mel-cepstral distortion of these spectra to the recordings, dB; None if the voice makes no spectra.
    """

    cer: float
    interval: Interval
    cer_best: float | None
    length_ratio: float
    best_interval: Interval | None = None
    uer: float | None = None
    uer_interval: Interval | None = None
    resynthesis_cer: float | None = None
    resynthesis_interval: Interval | None = None
    resynthesis_cer_best: float | None = None
    resynthesis_interval_best: Interval | None = None
    mcd: float | None = None
    mcd_best: float | None = None

    @property
    def headline(self) -> float:
        """The figure for summaries and pictures, percent: the best of several samples if there are, else greedy."""
        return self.cer if self.cer_best is None else self.cer_best

    def __repr__(self) -> str:
        best = "" if self.cer_best is None else f", best of several {self.cer_best:.1f} %"
        units = "" if self.uer is None else f", UER {self.uer:.1f} %"
        return f"Column(CER {shown_rate(self.cer, self.interval)}{best}{units}, length {self.length_ratio:.2f})"


def read_texts(judge: SemanticASR, characters: CharacterTokenizer, rows: Sequence[Tensor]) -> list[str]:
    """The texts that a judge reads in rows of speech ids `[n]`; "" for an empty row."""
    return [characters.decode(ids)[0] if len(ids) else "" for ids in judge.transcribe(rows)]


def floor(judge: SemanticASR, characters: CharacterTokenizer, test: Rows) -> tuple[float, Interval]:
    """The judge's own error on the true ids, percent, and its 95 % interval."""
    return rate_of(*character_errors(read_texts(judge, characters, test.semantic), test.texts))


def rate_of(errors: Sequence[int], lengths: Sequence[int]) -> tuple[float, Interval]:
    """Errors over lengths in percent, and the 95 % bootstrap interval over clips."""
    return 100 * sum(errors) / max(1, sum(lengths)), bootstrap_interval(errors, lengths)


def shown_rate(percent: float, interval: Sequence[float] | None = None) -> str:
    """An error rate with its interval: "5.5 % [4.2, 6.8]"."""
    return f"{percent:.1f} %" + ("" if interval is None else f" [{interval[0]:.1f}, {interval[1]:.1f}]")


def measure(
    model: TextToSemantic,
    judge: SemanticASR,
    reader: CTCBacktranslator | None,
    test: Rows,
    settings: Settings,
    listener: Listener | None = None,
) -> Column:
    """Has a model say the test texts, and the judge read them.

    Args:
        model: of speech from text.
        judge: reads what it says.
        reader: chooses among samples; None leaves that out.
        test: the test's clips.
        settings: of the voice.
        listener: hears what it says, too.
    """
    characters = model.text_tokenizer
    greedy = speak(model, test.texts)
    cer, interval = rate_of(*character_errors(read_texts(judge, characters, greedy), test.texts))
    uer, uer_interval = rate_of(*token_errors(greedy, test.semantic))
    best, best_interval, options = None, None, settings.evaluate
    heard: dict[str, Any] = {}
    if listener is not None:
        one = listener(greedy)
        heard |= {"resynthesis_cer": one.cer, "resynthesis_interval": one.interval, "mcd": one.mcd}
    if reader is not None and options.candidates > 1:
        generator = torch.Generator(device=model.device).manual_seed(settings.training.seed)
        chosen = speak(
            model,
            test.texts,
            backtranslator=reader,
            candidates=options.candidates,
            temperature=options.temperature,
            generator=generator,
        )
        best, best_interval = rate_of(*character_errors(read_texts(judge, characters, chosen), test.texts))
        if listener is not None:
            one = listener(chosen)
            heard |= {"resynthesis_cer_best": one.cer, "resynthesis_interval_best": one.interval, "mcd_best": one.mcd}
    ratio = sum(map(len, greedy)) / max(1, sum(map(len, test.semantic)))
    return Column(cer, interval, best, ratio, best_interval, uer, uer_interval, **heard)
