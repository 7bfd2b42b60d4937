"""A trainer for each stage of the recipe (arXiv 2302.03540): pretraining, backtranslation, text to speech.

In: a model and a dataset. Out: the trained model. A stage is its loss, its frozen parameters and its items; `trainer.py` has
the loop. Speech in items is semantic ids `[n]` or a waveform `[t]`, text is ids `[m]` or a str. Pairs are (speech, text).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from torch import nn
from torch.utils.data import ConcatDataset, Dataset, Subset
from typing_extensions import Unpack

from spear_tts_pytorch.data.label_writer import fingerprint_of
from spear_tts_pytorch.data.loader import PairCollate, SizedDataset, SpeechCollate
from spear_tts_pytorch.data.pairs.dataset import GeneratedAudioTextDataset
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.objectives import SemanticToTextWrapper, SpeechSpeechPretrainWrapper, TextToSemanticWrapper
from spear_tts_pytorch.training.batches import Objective
from spear_tts_pytorch.training.options import TrainingKeywords, options_of, with_training_options
from spear_tts_pytorch.training.trainer import Trainer
from spear_tts_pytorch.utils.values import (
    Fixed,
    absolute_path,
    number_of_items,
    one_of,
    real_number,
    switch,
    whole_number,
)

Freeze = Literal["paper", "none"]


@with_training_options
class SpeechSpeechPretrainer(Trainer):
    """Stage 1, pretraining: speech from corrupted speech, on audio alone. All parameters train.

    Args:
        model (required): the model to train.
        wav2vec (default None): tokenizer of waveforms; None takes the model's own.
        dataset (default None): items of speech, bare or in a tuple of one; at least one item.
        deletion_prob (default 0.6): share of ids that are deleted from the source, between 0 and 1.
        reconstruct_seq (default False): whether targets are the whole sequence, as in the paper; else the deleted ids.
        mask_id (default None): speech id that replaces ids, instead of deletion; needs `reconstruct_seq`.
        end (default True): False is for crops of longer speech: end-of-sequence is no target, so that a crop's end is not
            learned as an end. Train text to speech with `freeze="none"` then, to learn ends there.

    Raises:
        TypeError, ValueError: no items, an option of a wrong kind or out of range, or a results folder of another run.
    """

    task = "speechspeech"

    def __init__(
        self,
        model: TextToSemantic,
        wav2vec: Any = None,
        *,
        dataset: SizedDataset | None = None,
        deletion_prob: float = 0.6,
        reconstruct_seq: bool = False,
        mask_id: int | None = None,
        end: bool = True,
        **training: Unpack[TrainingKeywords],
    ):
        options = options_of(self, training)
        wrapper = SpeechSpeechPretrainWrapper(model, wav2vec, deletion_prob, reconstruct_seq, mask_id, end)
        objective = Objective(
            wrapper,
            {"x": "source", "target": "target"},
            target="speech",
            target_ids="target",
            corruption=wrapper.corrupt,
            end=wrapper.end,
        )
        names = ["deletion_prob", "reconstruct_seq", "mask_id"]
        names += [] if wrapper.end else ["end"]  # runs of releases without the option go on
        super().__init__(
            model,
            objective,
            dataset,
            SpeechCollate.for_model(model),
            options,
            wav2vec=wav2vec,
            stage_options={name: getattr(wrapper, name) for name in names},
        )


@with_training_options
class SemanticToTextTrainer(Trainer):
    """Stage 2, backtranslation: text from speech, on the few pairs there are.

    Args:
        model (required): the model to train, best a pretrained one.
        dataset (default None): pairs (speech, text); at least one.
        ctc_weight (default 0.0): share of the CTC head's loss, 0 to 1; for a model with `ctc=True`.
        token_dropout (default 0.0): share of speech ids that are deleted in training, at least 0 and below 1.
        freeze_encoder (default True): whether to freeze the encoder and the embeddings of speech, as the paper does.

    Raises:
        TypeError, ValueError: no pairs, an option of a wrong kind or out of range, or a results folder of another run.
    """

    task = "semantictext"
    ctc_weight = Fixed[float]()

    def __init__(
        self,
        model: TextToSemantic,
        *,
        dataset: SizedDataset | None = None,
        ctc_weight: float = 0.0,
        token_dropout: float = 0.0,
        freeze_encoder: bool = True,
        **training: Unpack[TrainingKeywords],
    ):
        options = options_of(self, training)
        wrapper = SemanticToTextWrapper(model=model, ctc_weight=ctc_weight, token_dropout=token_dropout)
        freeze_encoder = switch("freeze_encoder", freeze_encoder)
        model.unfreeze_all()
        if freeze_encoder:
            model.freeze_speech_emb()
            model.freeze_encoder()
        self.ctc_weight = wrapper.ctc_weight
        objective = Objective(
            wrapper,
            {"semantic_token_ids": "semantic", "grapheme_token_ids": "text"},
            target="text",
            target_ids="text",
            source="speech",
            options={"dropped": True},
            token_dropout=wrapper.token_dropout,
            logits_of_targets=wrapper.ctc_weight < 1,
        )
        stage_options = dict(ctc_weight=wrapper.ctc_weight, token_dropout=wrapper.token_dropout)
        collate = PairCollate.for_model(model)
        super().__init__(model, objective, dataset, collate, options, stage_options=stage_options)


@with_training_options
class TextToSemanticTrainer(Trainer):
    """Stage 3, text to speech, on pseudo-labelled pairs, real pairs or both.

    Args:
        model (required): the model to train, best a pretrained one.
        dataset (default None): pairs (speech, text).
        generated_audio_text_dataset_folder (default None): folder of pseudo-labelled pairs, added to `dataset`.
        dataset_delimiter_id (default -1): id between speech and text, in folders of releases up to 0.4.8.
        real_share (default None): share of the pairs of an epoch that come from `dataset`, above 0 and below 1. Pairs of the
            kind with too few are repeated. None takes each pair once.
        freeze_encoder_layers_below (default None): freezes as releases up to 0.4.8 did, instead of the four options below:
            so many of the lowest encoder layers, the whole decoder and the embeddings of speech. (Their default was 2.)
        should_train_early_exit_layer_if_available (default True): whether to add the loss of the early exit head.
        freeze (default 'paper'): 'paper' trains the embeddings of text, lower encoder layers and the cross-attention of the
            decoder; 'none' trains everything.
        train_encoder_layers (default None): number of encoder layers that train, from below, for `freeze='paper'`. None is
            a third of them, rounded up. The paper chose among a sixth, a quarter and a third on validation.
        freeze_decoder (default True): whether to freeze the decoder and the embeddings of speech, for `freeze='paper'`.
        freeze_cross_attention (default False): whether to freeze cross-attention with the decoder, for `freeze='paper'`.

    Raises:
        TypeError, ValueError: no pairs; pairs made by another tokenizer than the model's; options of `freeze` that exclude each
            other; an option out of range; a results folder of another run.
    """

    task = "textsemantic"
    train_early_exit = Fixed[bool]()

    def __init__(
        self,
        model: TextToSemantic,
        *,
        dataset: SizedDataset | None = None,
        generated_audio_text_dataset_folder: str | Path | None = None,
        dataset_delimiter_id: int = -1,
        real_share: float | None = None,
        freeze_encoder_layers_below: int | None = None,
        should_train_early_exit_layer_if_available: bool = True,
        freeze: Freeze = "paper",
        train_encoder_layers: int | None = None,
        freeze_decoder: bool = True,
        freeze_cross_attention: bool = False,
        **training: Unpack[TrainingKeywords],
    ):
        options = options_of(self, training)
        wrapper = TextToSemanticWrapper(model=model)
        early_exit = switch("should_train_early_exit_layer_if_available", should_train_early_exit_layer_if_available)
        self.train_early_exit = model.target_has_early_exit and early_exit
        if real_share is not None:
            real_share = real_number("real_share", real_share, above=0, below=1, also=" or None")
        freezing = _Freezing(model, freeze, train_encoder_layers, freeze_decoder, freeze_cross_attention)
        freezing.check(freeze_encoder_layers_below)
        pairs = _all_pairs(model, dataset, generated_audio_text_dataset_folder, dataset_delimiter_id)
        freezing.apply(freeze_encoder_layers_below)
        objective = Objective(
            wrapper,
            {"grapheme_token_ids": "text", "semantic_token_ids": "semantic"},
            target="speech",
            target_ids="semantic",
            source="text",
            options={"return_early_exit_loss": self.train_early_exit},
        )
        super().__init__(
            model,
            objective,
            pairs,
            PairCollate.for_model(model),
            options,
            mixture=None if real_share is None else (0 if dataset is None else len(dataset), real_share),
            stage_options=dict(train_early_exit=self.train_early_exit),
        )


def _all_pairs(
    model: TextToSemantic, dataset: SizedDataset | None, folder: str | Path | None, delimiter_id: int
) -> SizedDataset | None:
    """Real pairs and then generated ones; None if there are neither."""
    delimiter_id = whole_number("dataset_delimiter_id", delimiter_id)
    if dataset is not None:
        number_of_items("dataset", dataset)
    datasets = [] if dataset is None else [dataset]
    if folder is not None:
        folder = absolute_path("generated_audio_text_dataset_folder", folder, also=" or None")
        try:
            generated = GeneratedAudioTextDataset(folder, delimiter_id, eos_id=eos_ids(model))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"generated_audio_text_dataset_folder: {error}") from error
        datasets.append(_without_empty(generated))
        check_origin(model, generated)
    if dataset is not None:
        check_origin(model, dataset)
    return ConcatDataset[Any](cast("list[Dataset[Any]]", datasets)) if datasets else None


def _without_empty(pairs: GeneratedAudioTextDataset) -> SizedDataset:
    """The pairs that have speech and text. A weak backtranslator finds no text in some clips."""
    kept = cast("list[int]", (pairs.lengths > 0).all(axis=1).nonzero()[0].tolist())
    if not kept:
        raise ValueError(f"{pairs.folder} holds no pair with both speech and text: train the backtranslator for longer")
    if len(kept) == len(pairs):
        return pairs
    left_out = len(pairs) - len(kept)
    warnings.warn(f"{left_out} of {len(pairs)} pairs in {pairs.folder} are empty: left out", stacklevel=5)
    return Subset[Any](pairs, kept)


@dataclass
class _Freezing:
    """Which parameters text to speech does not train; see `TextToSemanticTrainer` for the options."""

    model: TextToSemantic
    freeze: Freeze
    train_encoder_layers: int | None
    freeze_decoder: bool
    freeze_cross_attention: bool

    def check(self, encoder_layers_below: int | None) -> None:
        """Raises TypeError or ValueError for options of a wrong kind or out of range, or that exclude each other."""
        one_of("freeze", self.freeze, get_args(Freeze))
        switch("freeze_decoder", self.freeze_decoder)
        switch("freeze_cross_attention", self.freeze_cross_attention)
        layers, depth = self.train_encoder_layers, self._depth
        if layers is not None:
            self.train_encoder_layers = whole_number("train_encoder_layers", layers, 0, depth, also=" or None")
        if encoder_layers_below is not None:
            whole_number("freeze_encoder_layers_below", encoder_layers_below, 0, depth, also=" or None")
            if self.freeze != "paper" or layers is not None:
                raise ValueError(
                    "freeze_encoder_layers_below excludes freeze and train_encoder_layers: give one of them"
                )
        elif self.freeze == "none" and layers is not None:
            raise ValueError(f"freeze='none' trains the whole encoder: leave out train_encoder_layers={layers}")

    @property
    def _depth(self) -> int:
        return len(cast("Sequence[nn.Module]", self.model.source_transformer.layers))

    def apply(self, encoder_layers_below: int | None) -> None:
        """Freezes these parameters and lets the others train."""
        model, layers = self.model, self.train_encoder_layers
        model.unfreeze_all()
        if encoder_layers_below is not None:  # as releases up to 0.4.8
            model.freeze_speech_emb()
            model.freeze_encoder_below_layer(encoder_layers_below)
            model.freeze_decoder()
        elif self.freeze == "paper":
            model.freeze_encoder_above_layer(-(-self._depth // 3) if layers is None else layers)
            if self.freeze_decoder:
                model.freeze_decoder(except_cross_attention=not self.freeze_cross_attention)
                model.freeze_speech_emb()


def eos_ids(model: TextToSemantic) -> dict[str, int]:
    """The end-of-sequence ids of the modalities that have one."""
    return {modality: model.eos_id[modality] for modality, is_set in model.autoset_eos_id.items() if is_set}


def check_origin(model: TextToSemantic, dataset: Any) -> None:
    """Raises ValueError if pairs on disk were made with other vocabularies or another tokenizer than the model's."""
    metadata: dict[str, Any] = getattr(dataset, "metadata", None) or {}
    here = {
        "num_semantic_token_ids": model.num_semantic_token_ids,
        "num_text_token_ids": model.num_text_token_ids,
        "unique_consecutive": getattr(model.wav2vec, "unique_consecutive", None),
        "semantic_tokenizer": fingerprint_of(model.wav2vec),
    }
    for key, value in here.items():
        there = metadata.get(key)
        if there is not None and value is not None and there != value:
            raise ValueError(
                f"{dataset.folder} was made with {key} {there}, the model has {value}: generate pairs anew with the "
                "model's own tokenizers, or load the model that made them"
            )
