"""Scores of targets: log-probabilities of given ids under the model, per id and per row.

In: sources and targets as the forward pass takes them. Out: `Scores`, which agree with the scores of `generate` for the ids
that it draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spear_tts_pytorch.decoding.options import DecodingOptions
from spear_tts_pytorch.decoding.step import Seq2Seq
from spear_tts_pytorch.tokens import Batch, Modality, append_eos, lengths_of, valid_mask
from spear_tts_pytorch.utils.checks import in_evaluation
from spear_tts_pytorch.utils.values import MOST_INTEGER, switch, whole_number

SLICE = 2**22  # logits that are normalised at a time, so that no second copy of all of them is made


@dataclass(frozen=True, eq=False)
class Scores:
    """Log-probabilities (natural logarithm) of a batch of targets, at temperature 1 and without any filter.

    Attributes:
        token_log_probs: float32 `[b, n]`, of each id given the source and the ids before it; 0 at padding.
        mask: bool `[b, n]`, True at ids that count, end-of-sequence included.
        ids: int64 `[b, n]`, the scored ids, padded on the right; n is the longest row's.
        log_probs: float32 `[b]`, of the rows: sums over their ids.
        mean_log_probs: float32 `[b]`, `log_probs` per id.
    """

    token_log_probs: Tensor
    mask: Tensor
    ids: Tensor
    log_probs: Tensor
    mean_log_probs: Tensor


@torch.no_grad()
def score(
    model: Seq2Seq,
    source: Batch,
    target: Batch,
    *,
    source_type: Modality = "text",
    target_type: Modality = "speech",
    source_mask: Tensor | None = None,
    target_mask: Tensor | None = None,
    source_lengths: Tensor | None = None,
    target_lengths: Tensor | None = None,
    end: bool = True,
    cond_scale: float = 1.0,
    batch_size: int | None = None,
) -> Scores:
    """Log-probabilities of targets given sources.

    For ids that `generate` returned, `mean_log_probs` is its score with sampling or greedy decoding, and `log_probs` its score
    with beam search (`temperature` 1, `length_penalty` 0). Pass `end=False` for such ids as they are: rows that ended hold
    their end-of-sequence already, rows cut at `max_length` have none. A prompt is a part of the target here: put it in front,
    and take the `token_log_probs` behind it.

    Args:
        source, target: texts, ids `[b, n]`, or (speech) waveforms `[b, t]`; arrays and lists of rows too.
        source_type, target_type: "speech" or "text".
        source_mask, target_mask: `[b, n]`, True at real ids; by default, ids that are not padding.
        source_lengths, target_lengths: of waveforms, in samples, `[b]`.
        end: whether a row's end-of-sequence counts. It is put behind rows that do not end in it; a vocabulary
            without one has none to count. False scores exactly the ids given.
        cond_scale: scale of classifier-free guidance, as in `generate`.
        batch_size: rows that go through the model at once, all by default. Bounds memory, changes no result.

    Raises:
        ValueError: sources and targets of unequal number, a target without anything to score, options out of range,
            weights that are not finite; both as `to_ids` does.
        TypeError: as `to_ids`.
    """
    options = DecodingOptions(source_type=source_type, target_type=target_type, cond_scale=cond_scale)
    options.check(model)
    end = switch("end", end)
    batch_size = (
        None if batch_size is None else whole_number("batch_size", batch_size, 1, MOST_INTEGER, also=" or None")
    )
    model = in_evaluation(model)
    source = model.source_ids(source, source_type, source_mask, source_lengths)
    ids = _scored_ids(model, target, target_type, target_lengths, target_mask, end)
    if len(source) != len(ids):
        raise ValueError(f"source has {len(source)} rows and target {len(ids)}: they must agree")
    token_log_probs = torch.zeros(ids.shape, dtype=torch.float32, device=ids.device)
    size = batch_size or len(ids)
    for start in range(0, len(ids), size):
        rows = slice(start, start + size)
        found = _log_probs(model, source[rows], ids[rows], options)
        token_log_probs[rows, : found.shape[1]] = found
    mask = valid_mask(ids, model.vocabulary[target_type].pad_id)
    token_log_probs = token_log_probs.masked_fill(~mask, 0)
    log_probs = token_log_probs.sum(dim=1)
    if not bool(log_probs.isfinite().all()):
        raise ValueError("log-probabilities are not finite: the model's weights hold NaN or infinity")
    return Scores(token_log_probs, mask, ids, log_probs, log_probs / mask.sum(dim=1))


def _scored_ids(
    model: Seq2Seq, target: Batch, target_type: Modality, lengths: Tensor | None, mask: Tensor | None, end: bool
) -> Tensor:
    vocabulary = model.vocabulary[target_type]
    ends = end and vocabulary.autoset_eos
    ids = model.to_ids(target, target_type, "target", lengths, mask, empty_rows=ends)
    if ends:
        ids = append_eos(ids, vocabulary.eos_id, vocabulary.pad_id)
    return ids[:, : int(lengths_of(ids, vocabulary.pad_id).max())]


def _trimmed(ids: Tensor, pad_id: int) -> Tensor:
    """Without the last columns in which no row has an id."""
    used = valid_mask(ids, pad_id).any(dim=0).nonzero()
    return ids[:, : int(used[-1]) + 1]


def _log_probs(model: Seq2Seq, source: Tensor, target: Tensor, options: DecodingOptions) -> Tensor:
    """Log-probabilities `[b, n]` of target ids `[b, n]`, anything at padding."""
    source_pad = model.vocabulary[options.source_type].pad_id
    target_pad = model.vocabulary[options.target_type].pad_id
    source, target = _trimmed(source, source_pad), _trimmed(target, target_pad)
    mask = valid_mask(source, source_pad)  # may leave out ids inside a row
    inputs = dict(source_type=options.source_type, target_type=options.target_type, source_mask=mask)
    logits: Tensor = model(source, target[:, :-1], **inputs)
    if options.cond_scale != 1:
        # which rows lose their source needs no random number: all do
        with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
            unconditioned: Tensor = model(source, target[:, :-1], cond_drop_prob=1.0, **inputs)
        logits = unconditioned + (logits - unconditioned) * options.cond_scale
    return _log_probs_of(logits, target.masked_fill(~valid_mask(target, target_pad), 0))


def _log_probs_of(logits: Tensor, ids: Tensor) -> Tensor:
    """Logits `[b, n, v]` and ids `[b, n]` to log-probabilities, float32 `[b, n]`."""
    rows = max(1, SLICE // logits[0].numel())
    parts: list[Tensor] = []
    for start in range(0, len(ids), rows):
        some, chosen = logits[start : start + rows].float(), ids[start : start + rows]
        parts.append(some.gather(2, chosen[..., None])[..., 0] - some.logsumexp(dim=-1))
    return torch.cat(parts)
