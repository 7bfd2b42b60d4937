"""How probable targets are: log-probabilities of given ids under the model, per id and per row.

`ScoringMixin` asks the model for its forward pass and its vocabularies. In: sources and targets as the forward pass
takes them. Out: `Scores`, which agree with what `generate` says of the ids it draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spear_tts_pytorch.model.inputs import Batch
from spear_tts_pytorch.tokens import Modality, Vocabulary, append_eos, lengths_of, valid_mask
from spear_tts_pytorch.utils.checks import evaluating

SLICE = 2**22  # logits that are normalised at a time, so that no second copy of all of them is made


@dataclass(frozen=True, eq=False)
class Scores:
    """Log-probabilities (natural logarithm) of a batch of targets, at temperature 1 and without any filter.

    Attributes:
        token_log_probs: float32 `[b, n]`, of each id given the source and the ids before it; 0 at padding.
        mask: bool `[b, n]`, True at ids that count, end-of-sequence included.
        ids: int64 `[b, n]`, what was scored, padded on the right; n is the longest row's.
        log_probs: float32 `[b]`, of the rows: sums over their ids.
        mean_log_probs: float32 `[b]`, `log_probs` per id.
    """

    token_log_probs: Tensor
    mask: Tensor
    ids: Tensor
    log_probs: Tensor
    mean_log_probs: Tensor


class ScoringMixin:
    """`score`, for `TextToSemantic`."""

    device: torch.device
    vocabulary: dict[str, Vocabulary]
    cond_drop_prob: float

    @torch.no_grad()
    def score(
        self,
        source: Batch,
        target: Batch,
        *,
        source_type: Modality,
        target_type: Modality,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
        source_lengths: Tensor | None = None,
        target_lengths: Tensor | None = None,
        end: bool = True,
        cond_scale: float = 1.0,
        batch_size: int | None = None,
    ) -> Scores:
        """Log-probabilities of targets given sources; the model's mode is put back afterwards.

        For ids that `generate` returned, `mean_log_probs` is what its `return_scores` gave with sampling or greedy
        decoding, and `log_probs` what it gave with beam search (`temperature` 1, `length_penalty` 0). Pass `end=False`
        for such ids as they are: rows that ended hold their end-of-sequence already, rows cut at `max_length` have none.
        A prompt is a part of the target here: put it in front, and take what stands behind it of `token_log_probs`.

        Args:
            source, target: texts, ids `[b, n]`, or (speech) waveforms `[b, t]`; arrays and lists of rows too.
            source_mask, target_mask: `[b, n]`, True at real ids; by default, what is not padding.
            source_lengths, target_lengths: of waveforms, in samples, `[b]`.
            end: whether a row's end-of-sequence counts. It is put behind rows that do not end in it; a vocabulary
                without one has none to count. False scores exactly the ids given.
            cond_scale: classifier-free guidance, as in `generate`.
            batch_size: rows that go through the model at once, all by default. Bounds memory, changes no result.

        Raises:
            ValueError: sources and targets of unequal number, a target without anything to score, options out of range,
                weights that are not finite; both as `to_ids` does.
            TypeError: as `to_ids`.
        """
        self._check_score(cond_scale, batch_size)
        with evaluating(self):
            source = self.source_ids(source, source_type, source_mask, source_lengths)
            ids = self._scored_ids(target, target_type, target_lengths, target_mask, end)
            if len(source) != len(ids):
                raise ValueError(f"source has {len(source)} rows and target {len(ids)}: they must agree")
            token_log_probs = torch.zeros(ids.shape, device=ids.device)
            size = batch_size or len(ids)
            for start in range(0, len(ids), size):
                rows = slice(start, start + size)
                part = self._trimmed(ids[rows], target_type)
                found = self._log_probs(
                    self._trimmed(source[rows], source_type), part, source_type, target_type, cond_scale
                )
                token_log_probs[rows, : part.shape[1]] = found
        mask = valid_mask(ids, self.vocabulary[target_type].pad_id)
        token_log_probs = token_log_probs.masked_fill(~mask, 0)
        log_probs = token_log_probs.sum(dim=1)
        if not bool(log_probs.isfinite().all()):
            raise ValueError("log-probabilities are not finite: the weights of the model are not")
        return Scores(token_log_probs, mask, ids, log_probs, log_probs / mask.sum(dim=1))

    def _check_score(self, cond_scale: float, batch_size: int | None) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, or None for all rows at once, got {batch_size}")
        if cond_scale < 1:
            raise ValueError(f"cond_scale must be at least 1 (1 = no guidance), got {cond_scale}")
        if cond_scale > 1 and self.cond_drop_prob == 0:
            raise ValueError(
                f"cond_scale {cond_scale} needs a model trained with cond_drop_prob > 0, this one was not: use cond_scale 1"
            )

    def _scored_ids(
        self, target: Batch, target_type: Modality, lengths: Tensor | None, mask: Tensor | None, end: bool
    ) -> Tensor:
        vocabulary = self.vocabulary.get(target_type)
        ends = end and vocabulary is not None and vocabulary.autoset_eos
        ids = self.to_ids(target, target_type, "target", lengths, mask, empty_rows=ends)
        if ends:
            ids = append_eos(ids, vocabulary.eos_id, vocabulary.pad_id)
        return ids[:, : int(lengths_of(ids, vocabulary.pad_id).max())]

    def _trimmed(self, ids: Tensor, modality: Modality) -> Tensor:
        """Without the last columns in which no row has an id."""
        used = valid_mask(ids, self.vocabulary[modality].pad_id).any(dim=0).nonzero()
        return ids[:, : int(used[-1]) + 1]

    def _log_probs(
        self, source: Tensor, target: Tensor, source_type: Modality, target_type: Modality, cond_scale: float
    ) -> Tensor:
        """Log-probabilities `[b, n]` of target ids `[b, n]`, anything at padding."""
        mask = valid_mask(source, self.vocabulary[source_type].pad_id)  # may leave out ids inside a row
        inputs = dict(source_type=source_type, target_type=target_type, source_mask=mask)
        logits = self(source, target[:, :-1], **inputs)
        if cond_scale != 1:
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):  # which rows: all
                unconditioned = self(source, target[:, :-1], cond_drop_prob=1.0, **inputs)
            logits = unconditioned + (logits - unconditioned) * cond_scale
        mask = valid_mask(target, self.vocabulary[target_type].pad_id)
        return _log_probs_of(logits, target.masked_fill(~mask, 0))


def _log_probs_of(logits: Tensor, ids: Tensor) -> Tensor:
    """Logits `[b, n, v]` and ids `[b, n]` to log-probabilities, float32 `[b, n]`."""
    rows = max(1, SLICE // logits[0].numel())
    parts = []
    for some, chosen in zip(logits.split(rows), ids.split(rows), strict=True):
        some = some.float()
        parts.append(some.gather(2, chosen[..., None])[..., 0] - some.logsumexp(dim=-1))
    return torch.cat(parts)
