"""The backtranslator at work: it labels speech, and it judges what the forward model says.

In: a model with a CTC head, trained on speech to text. Out: text ids `[m]` with scores (pseudo-labels), or the best of
several generated samples `[n]` of a text: the one from which the text is read best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from typing_extensions import Unpack

from spear_tts_pytorch.decoding.ctc import ctc_greedy
from spear_tts_pytorch.decoding.language_model import CharacterLM
from spear_tts_pytorch.decoding.options import RestrictionKeywords
from spear_tts_pytorch.model.losses import ctc_alignable, ctc_per_row
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.recipe.fusion import Fusion
from spear_tts_pytorch.tokenizers.consecutive import as_tokenized
from spear_tts_pytorch.tokens import lengths_of, pad_sequences, strip
from spear_tts_pytorch.utils.checks import in_evaluation


class CTCBacktranslator:
    """Speech ids to text ids by the CTC head of a model, with shallow fusion of a language model if one is given.

    Callable as `decode` of `SemanticToTextDatasetGenerator`.

    Args:
        model: built with `ctc=True` and trained on speech to text.
        lm: language model over text ids; without it the best id of each frame is taken.
        lm_weight, length_bonus, beam_size: see `decoding.ctc.ctc_beam_search`.
    """

    def __init__(
        self,
        model: TextToSemantic,
        lm: CharacterLM | None = None,
        lm_weight: float = 0.5,
        length_bonus: float = 0.0,
        beam_size: int = 8,
    ):
        self.model = model
        self.fusion = Fusion(lm, lm_weight, length_bonus, beam_size, model.text_pad_id)

    def __repr__(self) -> str:
        fusion = self.fusion
        lm = "no language model" if fusion.lm is None else f"language model of weight {fusion.lm_weight:g}"
        return f"CTCBacktranslator({lm}, beam of {fusion.beam_size})"

    @torch.no_grad()
    def __call__(self, semantic_ids: Tensor) -> list[tuple[Tensor, float]]:
        """Speech ids `[b, n]` to text ids `[m]` and a score for each row: log-probability per id, higher is surer."""
        log_probs, lengths = in_evaluation(self.model).ctc_logits(semantic_ids)
        if self.fusion.lm is None:
            best = log_probs.amax(dim=-1)
            rows = ctc_greedy(log_probs, lengths, self.model.text_pad_id)
            totals = [float(row[:length].sum()) for row, length in zip(best, lengths, strict=True)]
            return [(row, total / max(1, len(row))) for row, total in zip(rows, totals, strict=True)]
        return [self.fusion.decode(row[:length]) for row, length in zip(log_probs, lengths, strict=True)]

    @torch.no_grad()
    def choose(self, rows: Sequence[Tensor], texts: Sequence[str], spell: Callable[[Tensor], str]) -> None:
        """Takes the weight of the language model and the bonus that read clips of known texts best, if there are enough.

        Args:
            rows: speech ids `[n]` of clips that no training has seen.
            texts: their texts.
            spell: text ids `[m]` to a text.
        """
        model, log_probs = in_evaluation(self.model), list[Tensor]()
        for row in rows:
            found, _ = model.ctc_logits(row[None])
            log_probs.append(found[0])
        self.fusion = self.fusion.chosen(log_probs, texts, spell)

    @torch.no_grad()
    def cost(self, semantic_ids: Tensor, text_ids: Tensor) -> Tensor:
        """-log p(text | speech) `[b]` of text ids `[b, m]` given speech ids `[b, n]`, in nats; infinite if impossible."""
        log_probs, lengths = in_evaluation(self.model).ctc_logits(semantic_ids)
        text_ids = text_ids.to(log_probs.device)
        pad_id = self.model.text_pad_id
        text_lengths = lengths_of(text_ids, pad_id)
        cost = ctc_per_row(log_probs, lengths, text_ids, text_lengths, pad_id)
        return torch.where(ctc_alignable(lengths, text_ids, text_lengths), cost, torch.inf)


@torch.no_grad()
def speak(
    model: TextToSemantic,
    texts: Sequence[str],
    *,
    backtranslator: CTCBacktranslator | None = None,
    candidates: int = 4,
    temperature: float = 0.5,
    max_length: int | None = None,
    batch_size: int = 128,
    generator: torch.Generator | None = None,
) -> list[Tensor]:
    """Speech ids `[n]` for each text, without end-of-sequence; empty where the model says nothing.

    Args:
        backtranslator: chooses among samples the one from which it reads the text best (cycle consistency). Without it
            decoding is greedy.
        candidates, temperature: how many samples the backtranslator chooses among, and their temperature.
        max_length: most ids of a text's speech; by default 20 and twice what `model.text_position_rate` expects of the
            longest text.
        batch_size: texts decoded at once.
        generator: of the samples.
    """
    if max_length is None:
        max_length = 20 + int(2 * model.text_position_rate * max(map(len, texts), default=0))
    said: list[Tensor] = []
    for start in range(0, len(texts), batch_size):
        part = list(texts[start : start + batch_size])
        if backtranslator is None:
            said += sample_speech(model, part, temperature=0.0, max_length=max_length)
            continue
        drawn = [
            sample_speech(model, part, temperature=temperature, max_length=max_length, generator=generator)
            for _ in range(candidates)
        ]
        text_ids = model.to_ids(part, "text", "texts")
        costs = torch.stack([_cost(backtranslator, rows, text_ids) for rows in drawn])  # [candidates, b]
        said += [drawn[int(best)][row] for row, best in enumerate(costs.argmin(dim=0))]
    return said


def _cost(backtranslator: CTCBacktranslator, rows: list[Tensor], text_ids: Tensor) -> Tensor:
    """`CTCBacktranslator.cost` of rows `[n]`. An empty row cannot be read: one id takes its place, at infinite cost."""
    readable = [row if len(row) else row.new_zeros(1) for row in rows]
    cost = backtranslator.cost(pad_sequences(readable, backtranslator.model.semantic_pad_id), text_ids).cpu()
    return torch.where(torch.tensor([len(row) > 0 for row in rows]), cost, torch.inf)


def sample_speech(
    model: TextToSemantic,
    texts: Sequence[str],
    *,
    temperature: float,
    max_length: int,
    generator: torch.Generator | None = None,
    **options: Unpack[RestrictionKeywords],
) -> list[Tensor]:
    """One sample of speech ids `[n]` for each text, without padding, end-of-sequence and, if speech has none, repeats.

    `options` are further ones of `generate`.
    """
    ids = model.generate(
        list(texts),
        source_type="text",
        target_type="speech",
        temperature=temperature,
        max_length=max_length,
        generator=generator,
        **options,
    )
    rows = [strip(row.cpu(), model.semantic_pad_id, model.eos_id["speech"]) for row in ids]
    return as_tokenized(rows, model.wav2vec)
