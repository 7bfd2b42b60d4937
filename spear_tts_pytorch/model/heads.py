"""The loss of a batch: cross entropy, and the parts that a model adds: CTC head, early exit head, alignment regulariser.

In: encoder and decoder outputs, target ids. Out: scalars. The formulas are in `losses.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from spear_tts_pytorch.model import losses
from spear_tts_pytorch.nn.transformer import EarlyExit
from spear_tts_pytorch.tokens import MODALITIES, Modality, Vocabulary, lengths_of, valid_mask, with_start
from spear_tts_pytorch.utils.noise import uniform_rows
from spear_tts_pytorch.utils.values import one_of

CONDITION = 3  # purpose of a row's noise: whether it loses its source


class Learner(Protocol):
    """A model with heads to learn."""

    training: bool
    label_smoothing: float
    cond_drop_prob: float
    early_exit: EarlyExit | None
    early_exit_layer: int | None
    detach_early_exit_embed: bool
    align_reg_loss_weight: float
    align_reg_use_logsumexp_pool: bool
    align_reg_logsumexp_pool_temp: float
    to_ctc_logits: nn.Linear | None

    @property
    def vocabulary(self) -> Mapping[Modality, Vocabulary]: ...


@dataclass(frozen=True, eq=False)
class Decoded:
    """Outputs of a forward pass.

    Attributes:
        source, source_mask: encoded sources `[b, m, dim]`, and True at their real positions, `[b, m]`.
        hidden, hiddens: the decoder's output `[b, n + 1, dim]`, and that of each layer.
        logits: `[b, n + 1, v]`.
        dropped: rows that did not see their source, `[b]`; None if none could lose it.
    """

    source: Tensor
    source_mask: Tensor
    hidden: Tensor
    hiddens: list[Tensor]
    logits: Tensor
    dropped: Tensor | None


@dataclass(frozen=True)
class LossParts:
    """Which parts a loss has.

    Attributes:
        source_type, target_type: "speech" or "text".
        early_exit: adds the early exit head's loss.
        regularize: adds the alignment regulariser where rows lost their source.
        ctc_weight: share of the CTC head's loss; the rest is cross entropy.
        cond_drop_prob: share of rows that lose their source; None for the model's, in training only.
        end: whether end-of-sequence is a target, in vocabularies that have one.
    """

    source_type: Modality
    target_type: Modality
    early_exit: bool = False
    regularize: bool = True
    ctc_weight: float = 0.0
    cond_drop_prob: float | None = None
    end: bool = True

    def checked(self, model: Learner) -> LossParts:
        """The same; raises ValueError if the model has no head for a part, or a part is not for these modalities."""
        one_of("source_type", self.source_type, MODALITIES)
        one_of("target_type", self.target_type, MODALITIES)
        if self.early_exit and model.early_exit is None:
            raise ValueError("return_early_exit_loss needs a model with target_early_exit_layer")
        if self.early_exit and (self.source_type, self.target_type) != ("text", "speech"):
            raise ValueError(f"the early exit head is for text to speech, not {self.source_type} to {self.target_type}")
        if not 0 <= self.ctc_weight <= 1:
            raise ValueError(f"ctc_weight must be between 0 and 1, got {self.ctc_weight}")
        if self.ctc_weight > 0 and (self.source_type, self.target_type) != ("speech", "text"):
            raise ValueError(f"the CTC head is for speech to text, not {self.source_type} to {self.target_type}")
        if self.ctc_weight > 0 and model.to_ctc_logits is None:
            raise ValueError(f"ctc_weight {self.ctc_weight} needs a model built with ctc=True")
        if self.cond_drop_prob is not None and not 0 <= self.cond_drop_prob <= 1:
            raise ValueError(f"cond_drop_prob must be between 0 and 1, got {self.cond_drop_prob}")
        return self

    def drop_prob(self, model: Learner) -> float:
        """Share of rows that lose their source."""
        if self.cond_drop_prob is not None:
            return self.cond_drop_prob
        return model.cond_drop_prob if model.training else 0.0


def drop_condition(mask: Tensor, probability: float, row_keys: Tensor | None) -> Tensor | None:
    """Which rows lose their source, `[b]`, for sources with the mask `[b, m]`; None where none can."""
    if probability == 0:
        return None
    return uniform_rows((mask.shape[0], 1), mask.device, row_keys, CONDITION)[:, 0] < probability


def loss_of(model: Learner, decoded: Decoded, target: Tensor, parts: LossParts) -> Tensor:
    """The loss of target ids `[b, n]`, ends of sequence included."""
    pad_id = model.vocabulary[parts.target_type].pad_id
    smoothing = model.label_smoothing if model.training else 0.0
    loss = losses.cross_entropy(decoded.logits[:, :-1], target, pad_id, smoothing)
    if parts.ctc_weight > 0:
        of_ctc, _ = ctc_loss(model, decoded.source, decoded.source_mask, target)
        loss = (1 - parts.ctc_weight) * loss + parts.ctc_weight * of_ctc
    if parts.early_exit:
        loss = loss + losses.cross_entropy(_exit_logits(model, decoded)[:, :-1], target, pad_id, smoothing)
    if parts.regularize and decoded.dropped is not None and parts.source_type != parts.target_type:
        loss = loss + _alignment_loss(model, decoded, with_start(valid_mask(target, pad_id)), parts.drop_prob(model))
    return loss


def _exit_logits(model: Learner, decoded: Decoded) -> Tensor:
    assert model.early_exit is not None and model.early_exit_layer is not None
    hidden = decoded.hiddens[model.early_exit_layer - 1]
    return model.early_exit(hidden.detach() if model.detach_early_exit_embed else hidden)


def _alignment_loss(model: Learner, decoded: Decoded, target_mask: Tensor, drop_prob: float) -> Tensor:
    dropped = decoded.dropped
    if model.align_reg_loss_weight <= 0 or dropped is None:
        return decoded.source.new_zeros(())
    temperature = model.align_reg_logsumexp_pool_temp if model.align_reg_use_logsumexp_pool else None
    regularizer = losses.alignment_regularizer(
        decoded.source, decoded.hidden, decoded.source_mask, target_mask, dropped, drop_prob, temperature
    )
    return regularizer * model.align_reg_loss_weight


def ctc_log_probs(model: Learner, encoded: Tensor) -> Tensor:
    """Log-probabilities `[b, m, V]` of text ids (blank: text_pad_id) at each position of encoded speech `[b, m, dim]`.

    Raises:
        ValueError: the model has no CTC head.
    """
    if model.to_ctc_logits is None:
        raise ValueError("CTC needs a model built with ctc=True")
    return model.to_ctc_logits(encoded).float().log_softmax(dim=-1)


def ctc_loss(model: Learner, encoded: Tensor, mask: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The CTC loss of target ids `[b, n]`, and the log-probabilities `[b, m, V]` that it is of.

    It is a mean over target ids, ends of sequence included, so that batches of any rows weigh as with cross entropy.
    """
    vocabulary = model.vocabulary["text"]
    count = valid_mask(target, vocabulary.pad_id).sum()
    target = target.masked_fill(target == vocabulary.eos_id, vocabulary.pad_id)
    log_probs = ctc_log_probs(model, encoded)
    lengths = lengths_of(target, vocabulary.pad_id)
    return losses.ctc(log_probs, mask.sum(dim=-1), target, lengths, vocabulary.pad_id) / count, log_probs
