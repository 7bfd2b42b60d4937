"""What a batch adds to the loss beside cross entropy: CTC head, early exit head, alignment regulariser, dropped conditions.

`ObjectiveMixin` asks the model for these heads, its vocabularies and options. In: encoder and decoder outputs, target
ids. Out: scalars. The formulas are `losses`'s; which of them a call wants is `forward`'s business.
"""

from __future__ import annotations

from torch import Tensor, nn

from spear_tts_pytorch.model import losses
from spear_tts_pytorch.nn.transformer import EarlyExit
from spear_tts_pytorch.tokens import MODALITIES, Modality, Vocabulary, lengths_of, valid_mask
from spear_tts_pytorch.utils.noise import uniform_rows

CONDITION = 3  # what a row's noise is for


class ObjectiveMixin:
    """Parts of the loss of `TextToSemantic`."""

    training: bool
    vocabulary: dict[str, Vocabulary]
    label_smoothing: float
    cond_drop_prob: float
    early_exit: EarlyExit | None
    early_exit_layer: int | None
    detach_early_exit_embed: bool
    to_ctc_logits: nn.Linear | None
    align_reg_loss_weight: float
    align_reg_use_logsumexp_pool: bool
    align_reg_logsumexp_pool_temp: float

    @property
    def _smoothing(self) -> float:
        return self.label_smoothing if self.training else 0.0

    def _drop_probability(self, probability: float | None) -> float:
        if probability is None:
            return self.cond_drop_prob if self.training else 0.0
        if not 0 <= probability <= 1:
            raise ValueError(f"cond_drop_prob must be between 0 and 1, got {probability}")
        return probability

    @staticmethod
    def _drop_condition(mask: Tensor, probability: float, row_keys: Tensor | None) -> Tensor | None:
        """Which rows lose their source, `[b]`; None where none can."""
        if probability == 0:
            return None
        return uniform_rows((mask.shape[0], 1), mask.device, row_keys, CONDITION)[:, 0] < probability

    def _check_call(
        self, source_type: Modality, target_type: Modality, early_exit_loss: bool, ctc_weight: float
    ) -> None:
        for name, value in (("source_type", source_type), ("target_type", target_type)):
            if value not in MODALITIES:
                raise ValueError(f"{name} must be 'speech' or 'text', got {value!r}")
        if early_exit_loss and self.early_exit is None:
            raise ValueError("return_early_exit_loss needs a model with target_early_exit_layer")
        if early_exit_loss and (source_type, target_type) != ("text", "speech"):
            raise ValueError(f"the early exit head is for text to speech, not {source_type} to {target_type}")
        if not 0 <= ctc_weight <= 1:
            raise ValueError(f"ctc_weight must be between 0 and 1, got {ctc_weight}")
        if ctc_weight > 0 and (source_type, target_type) != ("speech", "text"):
            raise ValueError(f"the CTC head is for speech to text, not {source_type} to {target_type}")
        if ctc_weight > 0 and self.to_ctc_logits is None:
            raise ValueError(f"ctc_weight {ctc_weight} needs a model built with ctc=True")

    def _early_exit_loss(self, hiddens: list[Tensor], target: Tensor) -> Tensor:
        hidden = hiddens[self.early_exit_layer - 1]
        logits = self.early_exit(hidden.detach() if self.detach_early_exit_embed else hidden)
        return losses.cross_entropy(logits[:, :-1], target, self.vocabulary["speech"].pad_id, self._smoothing)

    def _alignment_loss(
        self,
        source: Tensor,
        target: Tensor,
        source_mask: Tensor,
        target_mask: Tensor,
        dropped: Tensor,
        drop_prob: float,
    ) -> Tensor:
        if self.align_reg_loss_weight <= 0:
            return source.new_zeros(())
        temperature = self.align_reg_logsumexp_pool_temp if self.align_reg_use_logsumexp_pool else None
        rows = source, target, source_mask, target_mask, dropped
        regularizer = losses.alignment_regularizer(*rows, drop_prob, temperature)
        return regularizer * self.align_reg_loss_weight

    # connectionist temporal classification

    def ctc_logits(self, semantic_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities `[b, n + 1, V]` of text ids (blank 0) at each semantic id `[b, n]` and its eos; lengths `[b]`."""
        if self.to_ctc_logits is None:
            raise ValueError("ctc_logits needs a model built with ctc=True")
        source_emb, mask, _ = self.encode(semantic_ids, "speech")
        return self._ctc_log_probs(source_emb), mask.sum(dim=-1)

    def _ctc_log_probs(self, source_emb: Tensor) -> Tensor:
        return self.to_ctc_logits(source_emb).float().log_softmax(dim=-1)

    def _ctc_loss(self, source_emb: Tensor, mask: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Per target id, ends of sequence included, so that batches of any rows weigh as with cross entropy."""
        vocabulary = self.vocabulary["text"]
        count = valid_mask(target, vocabulary.pad_id).sum()
        target = target.masked_fill(target == vocabulary.eos_id, vocabulary.pad_id)
        log_probs = self._ctc_log_probs(source_emb)
        lengths = lengths_of(target, vocabulary.pad_id)
        return losses.ctc(log_probs, mask.sum(dim=-1), target, lengths, vocabulary.pad_id) / count, log_probs
