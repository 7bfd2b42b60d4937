"""A trainer for each stage of the recipe (arXiv 2302.03540): pretraining, backtranslation, text to speech.

In: a model and a dataset. A stage is its loss, its frozen parameters and its items; the rest is `loop.py`. Speech in
items is semantic ids `[n]` or a waveform `[t]`, text is ids `[m]` or a str; pairs are (speech, text).
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset, Subset

from spear_tts_pytorch.data.loader import PairCollate, SpeechCollate
from spear_tts_pytorch.data.pairs.dataset import GeneratedAudioTextDataset
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.objectives import SemanticToTextWrapper, SpeechSpeechPretrainWrapper, TextToSemanticWrapper
from spear_tts_pytorch.tokens import valid_mask
from spear_tts_pytorch.training.trainer import Trainer

Freeze = Literal["paper", "none"]


def _with_training_options(init: Callable[..., None]) -> Callable[..., None]:
    """Shows `Trainer`'s keywords in the signature, where a stage says `**training`."""
    own = inspect.signature(init)
    parameters = [parameter for parameter in own.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    common = inspect.signature(Trainer.__init__).parameters.values()
    parameters += [parameter for parameter in common if parameter.kind is parameter.KEYWORD_ONLY]
    init.__signature__ = own.replace(parameters=parameters)
    return init


class SpeechSpeechPretrainer(Trainer):
    """Stage 1: speech from corrupted speech, on audio alone. Everything trains.

    Args:
        model: a `TextToSemantic`.
        wav2vec: tokenizer of waveforms; the model's own if None.
        dataset: items of speech, bare or in a tuple of one.
        deletion_prob, reconstruct_seq, mask_id: the corruption, see `SpeechSpeechPretrainWrapper`. The paper has
            the whole sequence as the target (`reconstruct_seq=True`).
        training: everything else, see `Trainer`.
    """

    task = "speechspeech"

    @_with_training_options
    def __init__(
        self,
        model: TextToSemantic,
        wav2vec: Any = None,
        *,
        dataset: Dataset | None = None,
        deletion_prob: float = 0.6,
        reconstruct_seq: bool = False,
        mask_id: int | None = None,
        **training: Any,
    ):
        self.wav2vec = wav2vec
        wrapper = SpeechSpeechPretrainWrapper(
            model=model,
            wav2vec=wav2vec,
            deletion_prob=deletion_prob,
            reconstruct_seq=reconstruct_seq,
            mask_id=mask_id,
        )
        self.corrupt = wrapper.corrupt
        self.stage_options = dict(deletion_prob=deletion_prob, reconstruct_seq=reconstruct_seq, mask_id=mask_id)
        super().__init__(model, wrapper, dataset, SpeechCollate.for_model(model), **training)

    def run_step(self, wrapper: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return wrapper(batch["semantic"], row_keys=batch["row_keys"])

    def targets(self, batch: dict[str, Tensor]) -> Tensor:
        if "targets" not in batch:  # asked for twice in validation
            _, target = self.corrupt(batch["semantic"], batch["row_keys"])
            batch["targets"] = super().targets({"semantic": target})
        return batch["targets"]


class SemanticToTextTrainer(Trainer):
    """Stage 2, backtranslation: text from speech, on the few pairs there are.

    Args:
        model: a `TextToSemantic`, best a pretrained one.
        dataset: pairs (speech, text).
        ctc_weight, token_dropout: see `SemanticToTextWrapper`.
        freeze_encoder: keeps the encoder and the embeddings of speech as they are, as the paper does.
        training: everything else, see `Trainer`.
    """

    task = "semantictext"
    source, target = "speech", "text"

    @_with_training_options
    def __init__(
        self,
        model: TextToSemantic,
        *,
        dataset: Dataset | None = None,
        ctc_weight: float = 0.0,
        token_dropout: float = 0.0,
        freeze_encoder: bool = True,
        **training: Any,
    ):
        model.unfreeze_all()
        if freeze_encoder:
            model.freeze_speech_emb()
            model.freeze_encoder()
        self.ctc_weight = ctc_weight
        self.stage_options = dict(ctc_weight=ctc_weight, token_dropout=token_dropout)
        wrapper = SemanticToTextWrapper(model=model, ctc_weight=ctc_weight, token_dropout=token_dropout)
        super().__init__(model, wrapper, dataset, PairCollate.for_model(model), **training)

    def run_step(self, wrapper: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        ids = {"semantic_token_ids": batch["semantic"], "grapheme_token_ids": batch["text"]}
        return wrapper(**ids, row_keys=batch["row_keys"])

    def targets(self, batch: dict[str, Tensor]) -> Tensor | None:
        return None if self.ctc_weight == 1 else super().targets(batch)

    def _weight(self, batch: dict[str, Tensor]) -> float:
        """Attention's loss is a mean over ids and ends of sequence, and so is that of CTC."""
        return float(valid_mask(super().targets(batch), self.model.pad_id["text"]).sum())


class TextToSemanticTrainer(Trainer):
    """Stage 3: speech from text, on pseudo-labelled pairs, real ones or both.

    Args:
        model: a `TextToSemantic`, best a pretrained one.
        dataset: pairs (speech, text).
        generated_audio_text_dataset_folder: pseudo-labelled pairs, added to `dataset`.
        real_share: share of the pairs of an epoch that come from `dataset`, above 0 and below 1; pairs of the kind there is
            too little of are repeated. None takes each pair once.
        dataset_delimiter_id: for folders of releases up to 0.4.8.
        freeze: "paper" trains the embeddings of text, lower encoder layers and the cross-attention of the decoder;
            "none" trains everything.
        train_encoder_layers: how many encoder layers train, from below; the paper chose among a sixth, a quarter and a
            third of them on validation, the default is a third, rounded up. For `freeze="paper"`.
        freeze_decoder, freeze_cross_attention: whether the decoder (with the embeddings of speech), and in it
            cross-attention, are frozen. For `freeze="paper"`.
        freeze_encoder_layers_below: freezes as releases up to 0.4.8 did, instead of all of the above: so many of the
            lowest encoder layers, the whole decoder and the embeddings of speech. (Their default was 2.)
        should_train_early_exit_layer_if_available: adds the loss of the early exit head.
        training: everything else, see `Trainer`.

    Raises:
        ValueError: no pairs; pairs made by another tokenizer than the model's; options of `freeze` that exclude each
            other.
    """

    task = "textsemantic"
    source, target = "text", "speech"

    @_with_training_options
    def __init__(
        self,
        model: TextToSemantic,
        *,
        dataset: Dataset | None = None,
        generated_audio_text_dataset_folder: str | Path | None = None,
        dataset_delimiter_id: int = -1,
        real_share: float | None = None,
        freeze_encoder_layers_below: int | None = None,
        should_train_early_exit_layer_if_available: bool = True,
        freeze: Freeze = "paper",
        train_encoder_layers: int | None = None,
        freeze_decoder: bool = True,
        freeze_cross_attention: bool = False,
        **training: Any,
    ):
        self.train_early_exit = model.target_has_early_exit and should_train_early_exit_layer_if_available
        self.stage_options = dict(train_early_exit=self.train_early_exit)
        datasets = [] if dataset is None else [dataset]
        if generated_audio_text_dataset_folder is not None:
            generated = GeneratedAudioTextDataset(
                generated_audio_text_dataset_folder, dataset_delimiter_id, eos_id=eos_ids(model)
            )
            datasets.append(_without_empty(generated))
            check_origin(model, generated)
        if dataset is not None:
            check_origin(model, dataset)
        if freeze_encoder_layers_below is not None:
            if freeze != "paper" or train_encoder_layers is not None:
                raise ValueError(
                    "freeze_encoder_layers_below excludes freeze and train_encoder_layers: give one of them"
                )
            model.unfreeze_all()
            model.freeze_speech_emb()
            model.freeze_encoder_below_layer(freeze_encoder_layers_below)
            model.freeze_decoder()
        else:
            _freeze(model, freeze, train_encoder_layers, freeze_decoder, freeze_cross_attention)
        pairs = ConcatDataset(datasets) if datasets else None
        if real_share is not None:
            self.mixture = (0 if dataset is None else len(dataset), real_share)
        super().__init__(model, TextToSemanticWrapper(model=model), pairs, PairCollate.for_model(model), **training)

    def run_step(self, wrapper: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return wrapper(
            grapheme_token_ids=batch["text"],
            semantic_token_ids=batch["semantic"],
            return_early_exit_loss=self.train_early_exit,
            row_keys=batch["row_keys"],
        )


def _without_empty(pairs: GeneratedAudioTextDataset) -> Dataset:
    """The pairs that have speech and text: a weak backtranslator reads nothing in some clips."""
    kept = (pairs.lengths > 0).all(axis=1).nonzero()[0].tolist()
    if not kept:
        raise ValueError(f"{pairs.folder} holds no pair with both speech and text: train the backtranslator for longer")
    if len(kept) < len(pairs):
        warnings.warn(
            f"{len(pairs) - len(kept)} of {len(pairs)} pairs in {pairs.folder} are empty: left out", stacklevel=3
        )
    return Subset(pairs, kept) if len(kept) < len(pairs) else pairs


def _freeze(
    model: TextToSemantic,
    freeze: Freeze,
    train_encoder_layers: int | None,
    freeze_decoder: bool,
    freeze_cross_attention: bool,
) -> None:
    if freeze not in get_args(Freeze):
        raise ValueError(f"freeze must be 'paper' or 'none', got {freeze!r}")
    model.unfreeze_all()
    if freeze == "none":
        if train_encoder_layers is not None:
            raise ValueError(
                f"freeze='none' trains the whole encoder: leave out train_encoder_layers={train_encoder_layers}"
            )
        return
    depth = len(model.source_transformer.layers)
    model.freeze_encoder_above_layer(-(-depth // 3) if train_encoder_layers is None else train_encoder_layers)
    if freeze_decoder:
        model.freeze_decoder(except_cross_attention=not freeze_cross_attention)
        model.freeze_speech_emb()


def eos_ids(model: TextToSemantic) -> dict[str, int]:
    """The end-of-sequence ids of the modalities that have one."""
    return {modality: model.eos_id[modality] for modality, is_set in model.autoset_eos_id.items() if is_set}


def check_origin(model: TextToSemantic, dataset: Any) -> None:
    """Raises ValueError if pairs on disk were made with other vocabularies or another tokenizer than the model's."""
    metadata = getattr(dataset, "metadata", None) or {}
    here = {
        "num_semantic_token_ids": model.num_semantic_token_ids,
        "num_text_token_ids": model.num_text_token_ids,
        "unique_consecutive": getattr(model.wav2vec, "unique_consecutive", None),
    }
    for key, value in here.items():
        there = metadata.get(key)
        if there is not None and value is not None and there != value:
            raise ValueError(
                f"{dataset.folder} was made with {key} {there}, the model has {value}: generate pairs anew with the "
                "model's own tokenizers, or load the model that made them"
            )
