"""Stage 6: what a judge understands of a model's speech.

In: a model, a judge, test texts with their true ids. Out: a `Column` of the paper's table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.utils import set_seed
from torch import Tensor

from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.recipe.backtranslation import CTCBacktranslator, speak
from spear_tts_pytorch.recipe.evaluate import SemanticASR
from spear_tts_pytorch.recipe.settings import Settings
from spear_tts_pytorch.recipe.stages import Pair, Rows
from spear_tts_pytorch.tokenizers.text import CharacterTokenizer
from spear_tts_pytorch.utils.distributed import in_first_process
from spear_tts_pytorch.utils.metrics import bootstrap_interval, character_errors, token_errors

Interval = tuple[float, float]


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
    """

    cer: float
    interval: Interval
    cer_best: float | None
    length_ratio: float
    best_interval: Interval | None = None
    uer: float | None = None
    uer_interval: Interval | None = None

    @property
    def headline(self) -> float:
        """The figure for summaries and pictures, percent: the best of several samples if there are, else greedy."""
        return self.cer if self.cer_best is None else self.cer_best

    def __repr__(self) -> str:
        best = "" if self.cer_best is None else f", best of several {self.cer_best:.1f} %"
        units = "" if self.uer is None else f", UER {self.uer:.1f} %"
        return f"Column(CER {shown_rate(self.cer, self.interval)}{best}{units}, length {self.length_ratio:.2f})"


def train_judge(
    pairs: Sequence[Pair], characters: CharacterTokenizer, ids: int, settings: Settings, progress: bool = True
) -> tuple[SemanticASR, list[float]]:
    """A judge of another architecture than the models, and its loss at each step.

    Args:
        pairs: all pairs whose text is known, without the test's.
        characters: the alphabet.
        ids: number of speech ids.
        settings: of the voice.
        progress: shows a bar, on terminals.
    """
    set_seed(settings.training.seed + 1)
    judge = SemanticASR(ids, characters.vocab_size)
    losses = judge.fit(
        pairs,
        steps=settings.evaluate.judge_steps,
        batch_tokens=settings.training.batch_tokens,
        seed=settings.training.seed,
        progress=progress,
    )
    return judge, losses


def make_judge(
    path: Path,
    pairs: Sequence[Pair],
    characters: CharacterTokenizer,
    ids: int,
    settings: Settings,
    progress: bool = True,
) -> tuple[SemanticASR, list[float]]:
    """`train_judge` in the first process, which writes the judge to `path`; the others read it. Collective.

    Returns:
        The judge, and its loss at each step in the first process.
    """
    losses: list[float] = []

    def train() -> None:
        judge, found = train_judge(pairs, characters, ids, settings, progress)
        write_judge(judge, path)
        losses.extend(found)

    in_first_process(train)
    return read_judge(path, characters, ids), losses


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
    model: TextToSemantic, judge: SemanticASR, reader: CTCBacktranslator | None, test: Rows, settings: Settings
) -> Column:
    """Has a model say the test texts, and the judge read them.

    Args:
        model: of speech from text.
        judge: reads what it says.
        reader: chooses among samples; None leaves that out.
        test: the test's clips.
        settings: of the voice.
    """
    characters = model.text_tokenizer
    greedy = speak(model, test.texts)
    cer, interval = rate_of(*character_errors(read_texts(judge, characters, greedy), test.texts))
    uer, uer_interval = rate_of(*token_errors(greedy, test.semantic))
    best, best_interval, options = None, None, settings.evaluate
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
    ratio = sum(map(len, greedy)) / max(1, sum(map(len, test.semantic)))
    return Column(cer, interval, best, ratio, best_interval, uer, uer_interval)


def write_judge(judge: SemanticASR, path: Path) -> None:
    """Writes a judge's weights."""
    from safetensors.torch import save

    from spear_tts_pytorch.utils.files import write_whole

    write_whole(path, save({name: value.contiguous() for name, value in judge.state_dict().items()}))


def read_judge(path: Path, characters: CharacterTokenizer, ids: int) -> SemanticASR:
    """A judge as `write_judge` wrote it."""
    from safetensors.torch import load

    judge = SemanticASR(ids, characters.vocab_size)
    judge.load_state_dict(load(path.read_bytes()))
    return judge.eval()
