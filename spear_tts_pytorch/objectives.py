"""The recipe's three objectives as modules: batches of ids in, `(loss, logits)` out.

Ids `[b, n]` are padded on the right with their modality's padding and hold no end-of-sequence. The loss is a mean over
target ids and ends of sequence. Logits are `[b, n + 1, v]` for n target ids and end-of-sequence; entry i predicts id i.
"""

from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from spear_tts_pytorch.model.inputs import Batch, to_ids
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.tokens import valid_mask
from spear_tts_pytorch.utils.deletion import deletion_count as deletion_count
from spear_tts_pytorch.utils.deletion import deletion_mask as deletion_mask
from spear_tts_pytorch.utils.deletion import drop_ids
from spear_tts_pytorch.utils.deletion import take as take
from spear_tts_pytorch.utils.values import Fixed, instance, real_number, settle, shown, switch, whole_number


@dataclass(frozen=True)
class Corruption:
    """Makes the source and the target of pretraining from a row of ids.

    Args:
        pad_id: padding of the ids.
        deletion_prob: share of ids to delete, above 0 and below 1.
        reconstruct_seq: targets are whole rows; else the deleted ids in order.
        mask_id: replaces ids by this id instead of deleting them; needs `reconstruct_seq`.

    Raises:
        TypeError, ValueError: an argument of a wrong kind or out of range, or `mask_id` without `reconstruct_seq`.
    """

    pad_id: int
    deletion_prob: float = 0.6
    reconstruct_seq: bool = False
    mask_id: int | None = None

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "deletion_prob": real_number("deletion_prob", self.deletion_prob, above=0, below=1),
            "reconstruct_seq": switch("reconstruct_seq", self.reconstruct_seq),
            "mask_id": None if self.mask_id is None else whole_number("mask_id", self.mask_id, 0, also=" or None"),
        }
        settle(self, checked)
        if self.mask_id is not None and not self.reconstruct_seq:
            raise ValueError("mask_id needs reconstruct_seq=True: masked sources keep their length")

    @property
    def position_rate(self) -> float:
        """Steps of the speech timeline between two source ids: above 1 where the target has the ids that are missing."""
        shortened = self.mask_id is None and self.reconstruct_seq
        return 1 / (1 - self.deletion_prob) if shortened else 1.0

    def __call__(self, ids: Tensor, row_keys: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Sources `[b, n]` and targets `[b, m]`, for ids `[b, k]`; all are padded on the right."""
        valid = valid_mask(ids, self.pad_id)
        deleted = deletion_mask(valid, self.deletion_prob, row_keys)
        if self.mask_id is None:
            source = take(ids, valid & ~deleted, self.pad_id)
        else:
            source = ids.masked_fill(deleted, self.mask_id)
        return source, ids if self.reconstruct_seq else take(ids, deleted, self.pad_id)


class SpeechSpeechPretrainWrapper(nn.Module):
    """Pretraining by denoising: speech ids from what deletion left of them (arXiv 2302.03540, section 4).

    Args:
        model: is trained on speech to speech.
        wav2vec: tokenizer of waveforms; by default the model's own.
        deletion_prob: share of ids that are deleted, between 0 and 1; 0.6 in the paper.
        reconstruct_seq: targets are the whole sequence, as in the paper; else the deleted ids in order.
        mask_id: replaces ids by this speech id instead of deleting them; needs `reconstruct_seq`. A model with
            `num_semantic_token_ids` one above the codebook's size has an id to spare for it.
        end: False is for crops of longer speech: end-of-sequence is no target, so that a crop's end is not learned as
            an end. Text to speech teaches ends afterwards, if the decoder trains there (`freeze="none"`).

    Its attributes of these names cannot be changed.

    Raises:
        TypeError, ValueError: an argument of a wrong kind or out of range, or `mask_id` without `reconstruct_seq`.
    """

    wav2vec: Any
    corrupt, source_position_rate = Fixed[Corruption](), Fixed[float]()
    deletion_prob, reconstruct_seq, mask_id = Fixed[float](), Fixed[bool](), Fixed[int | None]()
    end = Fixed[bool]()

    def __init__(
        self,
        model: TextToSemantic,
        wav2vec: object = None,
        deletion_prob: float = 0.6,
        reconstruct_seq: bool = False,
        mask_id: int | None = None,
        end: bool = True,
    ):
        super().__init__()
        instance("model", model, TextToSemantic)
        if wav2vec is not None and not callable(wav2vec):
            raise TypeError(f"wav2vec must be a tokenizer of waveforms or None, got {shown(wav2vec)}")
        self.corrupt = how = Corruption(model.semantic_pad_id, deletion_prob, reconstruct_seq, mask_id)
        if how.mask_id is not None and how.mask_id >= model.num_semantic_token_ids:
            raise ValueError(
                f"mask_id must be a speech id, 0 to {model.num_semantic_token_ids - 1}, got {mask_id}: build the model "
                "with a larger num_semantic_token_ids to have one that is no unit of speech"
            )
        self.model, self.end = model, switch("end", end)
        self.__dict__["wav2vec"] = wav2vec  # past nn.Module, which would make its weights this module's own
        self.deletion_prob, self.reconstruct_seq, self.mask_id = how.deletion_prob, how.reconstruct_seq, how.mask_id
        self.source_position_rate = how.position_rate

    def forward(
        self,
        x: Batch,
        return_early_exit_loss: bool = False,
        lengths: Tensor | None = None,
        row_keys: Tensor | None = None,
        *,
        target: Tensor | None = None,
        check_ids: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """The loss, and logits `[b, m + 1, v]` of the m target ids and end-of-sequence; `[b, m, v]` without an end.

        Args:
            x: speech ids `[b, n]`, or waveforms `[b, t]`.
            return_early_exit_loss: must be False.
            lengths: `[b]`, samples of each waveform that are audio; all of them by default.
            row_keys: `[b]`, decide which ids of a row are deleted, see `noise.row_keys`; by default torch's generator does.
            target: ids `[b, m]` that `corrupt` returned as targets; `x` must then be the sources that it returned.
            check_ids: False takes ids as they are: int64 `[b, n]` on the model's device, checked before. The checks wait
                for the device.

        Raises:
            ValueError: `return_early_exit_loss` is True: the exit head learns from text to speech only.
        """
        if return_early_exit_loss:
            raise ValueError("the early exit head is trained on text to speech, not in pretraining: leave it off here")
        source = x if target is not None or not check_ids else self._ids(x, lengths)
        if target is None:
            source, target = self.corrupt(cast(Tensor, source), row_keys)
        return self.model(
            source,
            target,
            source_type="speech",
            target_type="speech",
            return_loss=True,
            return_logits=True,
            source_position_rate=self.source_position_rate,
            row_keys=row_keys,
            check_ids=check_ids,
            end=self.end,
        )

    def _ids(self, x: Batch, lengths: Tensor | None) -> Tensor:
        """Checked ids `[b, n]` of ids or waveforms."""
        model = self.model
        return to_ids(
            x,
            model.vocabulary["speech"],
            "x",
            tokenizer=model.wav2vec if self.wav2vec is None else self.wav2vec,
            device=model.device,
            lengths=lengths,
            empty_rows=False,
        )


class SemanticToTextWrapper(nn.Module):
    """Backtranslation: text from semantic ids.

    Args:
        model: is trained on speech to text.
        ctc_weight: share of the CTC head's loss in the whole, 0 to 1, for a model with `ctc=True`; the rest is
            attention's.
        token_dropout: share of source ids that are deleted in training, at least 0 and below 1; it keeps the model from
            learning few pairs by heart.

    Its attributes of these names cannot be changed.

    Raises:
        TypeError, ValueError: an argument of a wrong kind or out of range, or the model has no CTC head.
    """

    ctc_weight, token_dropout = Fixed[float](), Fixed[float]()

    def __init__(self, model: TextToSemantic, ctc_weight: float = 0.0, token_dropout: float = 0.0):
        super().__init__()
        self.model = instance("model", model, TextToSemantic)
        self.token_dropout = real_number("token_dropout", token_dropout, 0, below=1)
        self.ctc_weight = real_number("ctc_weight", ctc_weight, 0, 1)
        if self.ctc_weight > 0 and model.to_ctc_logits is None:
            raise ValueError(f"ctc_weight {ctc_weight} needs a model built with ctc=True")

    def forward(
        self,
        semantic_token_ids: Batch,
        grapheme_token_ids: Batch,
        row_keys: Tensor | None = None,
        *,
        check_ids: bool = True,
        dropped: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The loss, and logits `[b, m + 1, v]` of the m text ids and end-of-sequence.

        Args:
            semantic_token_ids: speech ids `[b, n]`, or waveforms `[b, t]`.
            grapheme_token_ids: text ids `[b, m]`, or texts.
            row_keys: `[b]`, decide which ids and conditions a row loses, see `noise.row_keys`; by default torch's
                generator does.
            check_ids: False takes ids as they are: int64 on the model's device, checked before. The checks wait for the
                device.
            dropped: `semantic_token_ids` have lost the ids that `token_dropout` deletes; no more are deleted.
        """
        if self.training and self.token_dropout > 0 and not dropped:
            ids = semantic_token_ids
            ids = self.model.source_ids(ids, "speech", None, None) if check_ids else cast(Tensor, ids)
            semantic_token_ids = drop_ids(ids, self.token_dropout, self.model.semantic_pad_id, row_keys)
        return self.model(
            semantic_token_ids,
            grapheme_token_ids,
            source_type="speech",
            target_type="text",
            return_loss=True,
            return_logits=True,
            ctc_weight=self.ctc_weight,
            row_keys=row_keys,
            check_ids=check_ids,
        )


class TextToSemanticWrapper(nn.Module):
    """Text to speech: semantic ids from text.

    Args:
        model: is trained on text to speech.
    """

    def __init__(self, model: TextToSemantic):
        super().__init__()
        self.model = instance("model", model, TextToSemantic)

    def forward(
        self,
        grapheme_token_ids: Batch,
        semantic_token_ids: Batch,
        return_early_exit_loss: bool = True,
        row_keys: Tensor | None = None,
        *,
        check_ids: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """The loss, and logits `[b, n + 1, v]` of the n speech ids and end-of-sequence.

        Args:
            grapheme_token_ids: text ids `[b, m]`, or texts.
            semantic_token_ids: speech ids `[b, n]`, or waveforms `[b, t]`.
            return_early_exit_loss: adds the loss of the early exit head, if the model has one.
            row_keys: `[b]`, decide which rows lose their text, see `noise.row_keys`; by default torch's generator does.
            check_ids: False takes ids as they are: int64 on the model's device, checked before. The checks wait for the
                device.
        """
        return self.model(
            grapheme_token_ids,
            semantic_token_ids,
            source_type="text",
            target_type="speech",
            return_loss=True,
            return_logits=True,
            return_early_exit_loss=return_early_exit_loss and self.model.target_has_early_exit,
            row_keys=row_keys,
            check_ids=check_ids,
        )
