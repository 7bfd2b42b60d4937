"""The recipe's three objectives as modules: batches of ids in, `(loss, logits)` out.

Ids are padded on the right with their modality's padding and hold no end-of-sequence. Logits are `[b, n + 1, v]` for n
target ids and end-of-sequence, entry i predicting id i. `row_keys` `[b]` fix what is deleted from which row, and which rows
lose their source, see `noise`; without them torch's generator draws. Knows nothing of datasets, optimizers or files.
"""

from torch import Tensor, nn

from spear_tts_pytorch.model.inputs import Batch, to_ids
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.tokens import pad_sequences, valid_mask
from spear_tts_pytorch.utils.checks import typechecked
from spear_tts_pytorch.utils.noise import uniform_rows

DELETION, DROPOUT = 1, 2  # what a row's noise is for


def deletion_count(lengths: Tensor, probability: float) -> Tensor:
    """How many ids of rows of these lengths `[b]` to delete: `ceil(probability * length)`, never all of a row."""
    return (lengths * probability).ceil().long().minimum(lengths - 1)


def deletion_mask(valid: Tensor, probability: float, row_keys: Tensor | None = None) -> Tensor:
    """Which ids of each row to delete: `deletion_count` of the valid ones at random.

    Args: `valid` `[b, n]`, True at real ids. Returns a mask `[b, n]`.
    """
    noise = uniform_rows(valid.shape, valid.device, row_keys, DELETION)
    order = noise.masked_fill(~valid, 2.0).argsort(dim=-1).argsort(dim=-1)
    return order < deletion_count(valid.sum(dim=-1), probability)[:, None]


def take(ids: Tensor, mask: Tensor, pad_id: int) -> Tensor:
    """The ids of each row where `mask` `[b, n]` is True, in order, padded to the longest."""
    return pad_sequences([row[keep] for row, keep in zip(ids, mask, strict=True)], pad_id)


class SpeechSpeechPretrainWrapper(nn.Module):
    """Pretraining by denoising: a sequence from what deletion left of it (arXiv 2302.03540, section 4).

    Args:
        model: trained on speech to speech.
        wav2vec: tokenizer of waveforms, the model's own by default.
        deletion_prob: share of ids deleted, 0.6 in the paper.
        reconstruct_seq: targets are the whole sequence, as in the paper; else the deleted ids in order.
        mask_id: replaces ids by this speech id instead of deleting them; needs `reconstruct_seq`. A model with
            `num_semantic_token_ids` one above the codebook's size has an id to spare for it.
    """

    @typechecked
    def __init__(
        self,
        model: TextToSemantic,
        wav2vec: object = None,
        deletion_prob: float = 0.6,
        reconstruct_seq: bool = False,
        mask_id: int | None = None,
    ):
        super().__init__()
        if not 0 < deletion_prob < 1:
            raise ValueError(f"deletion_prob must be between 0 and 1, got {deletion_prob}")
        if mask_id is not None and not reconstruct_seq:
            raise ValueError("mask_id needs reconstruct_seq=True: masked sources keep their length")
        if mask_id is not None and not 0 <= mask_id < model.num_semantic_token_ids:
            raise ValueError(
                f"mask_id must be a speech id, 0 to {model.num_semantic_token_ids - 1}, got {mask_id}: build the model "
                "with a larger num_semantic_token_ids to have one that is no unit of speech"
            )
        self.model = model
        self.__dict__["wav2vec"] = wav2vec  # past nn.Module, which would make its weights this module's own
        self.deletion_prob, self.reconstruct_seq, self.mask_id = deletion_prob, reconstruct_seq, mask_id

    def forward(
        self,
        x: Batch,
        return_early_exit_loss: bool = False,
        lengths: Tensor | None = None,
        row_keys: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Args: `x`, speech ids `[b, n]` or waveforms `[b, t]` with their `lengths` `[b]` in samples.

        Raises:
            ValueError: `return_early_exit_loss`, as the exit head learns from text to speech only.
        """
        if return_early_exit_loss:
            raise ValueError("the early exit head is trained on text to speech, not in pretraining: leave it off here")
        source, target = self.corrupt(self._ids(x, lengths), row_keys)
        shortened = self.mask_id is None and self.reconstruct_seq
        rate = 1 / (1 - self.deletion_prob) if shortened else 1.0
        return self.model(
            source,
            target,
            source_type="speech",
            target_type="speech",
            return_loss=True,
            return_logits=True,
            source_position_rate=rate,
            row_keys=row_keys,
        )

    def corrupt(self, ids: Tensor, row_keys: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Sources and targets, `[b, n]` and `[b, m]`, for ids `[b, k]`, all padded."""
        pad_id = self.model.semantic_pad_id
        valid = valid_mask(ids, pad_id)
        deleted = deletion_mask(valid, self.deletion_prob, row_keys)
        source = take(ids, valid & ~deleted, pad_id) if self.mask_id is None else ids.masked_fill(deleted, self.mask_id)
        return source, ids if self.reconstruct_seq else take(ids, deleted, pad_id)

    def _ids(self, x: Batch, lengths: Tensor | None) -> Tensor:
        model = self.model
        tokenizer = model.wav2vec if self.wav2vec is None else self.wav2vec
        options = dict(tokenizer=tokenizer, device=model.device, lengths=lengths, empty_rows=False)
        return to_ids(x, model.vocabulary["speech"], "x", **options)


class SemanticToTextWrapper(nn.Module):
    """Backtranslation: text from semantic ids.

    Args:
        ctc_weight: share of the CTC head's loss in the whole, for a model with `ctc=True`; the rest is attention's.
        token_dropout: share of source ids deleted in training, which keeps few pairs from being learned by heart.
    """

    @typechecked
    def __init__(self, model: TextToSemantic, ctc_weight: float = 0.0, token_dropout: float = 0.0):
        super().__init__()
        if not 0 <= token_dropout < 1:
            raise ValueError(f"token_dropout must be at least 0 and below 1, got {token_dropout}")
        if not 0 <= ctc_weight <= 1:
            raise ValueError(f"ctc_weight must be between 0 and 1, got {ctc_weight}")
        if ctc_weight > 0 and model.to_ctc_logits is None:
            raise ValueError(f"ctc_weight {ctc_weight} needs a model built with ctc=True")
        self.model, self.ctc_weight, self.token_dropout = model, ctc_weight, token_dropout

    def forward(
        self, semantic_token_ids: Batch, grapheme_token_ids: Batch, row_keys: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if self.training and self.token_dropout > 0:
            pad_id = self.model.semantic_pad_id
            semantic_token_ids = self.model.source_ids(semantic_token_ids, "speech", None, None)
            valid = valid_mask(semantic_token_ids, pad_id)
            kept = valid & (uniform_rows(valid.shape, valid.device, row_keys, DROPOUT) >= self.token_dropout)
            kept[:, 0] |= ~kept.any(dim=-1)  # a row never loses everything
            semantic_token_ids = take(semantic_token_ids, kept, pad_id)
        return self.model(
            semantic_token_ids,
            grapheme_token_ids,
            source_type="speech",
            target_type="text",
            return_loss=True,
            return_logits=True,
            ctc_weight=self.ctc_weight,
            row_keys=row_keys,
        )


class TextToSemanticWrapper(nn.Module):
    """The forward model: semantic ids from text."""

    @typechecked
    def __init__(self, model: TextToSemantic):
        super().__init__()
        self.model = model

    def forward(
        self,
        grapheme_token_ids: Batch,
        semantic_token_ids: Batch,
        return_early_exit_loss: bool = True,
        row_keys: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`return_early_exit_loss` adds the early exit head's loss where the model has one."""
        return self.model(
            grapheme_token_ids,
            semantic_token_ids,
            source_type="text",
            target_type="speech",
            return_loss=True,
            return_logits=True,
            return_early_exit_loss=return_early_exit_loss and self.model.target_has_early_exit,
            row_keys=row_keys,
        )
