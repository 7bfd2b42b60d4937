"""The stages of the recipe as functions: units, pretraining, backtranslator, pseudo-labels, text to speech.

In: settings, and ids or models of earlier stages. Out of each stage: a tokenizer, a trained model or pairs. `voice.py`
calls them in their order and keeps their results in the voice folder.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import Tensor
from torch.utils.data import Dataset

from spear_tts_pytorch.data.generator import SemanticToTextDatasetGenerator
from spear_tts_pytorch.data.pairs.dataset import GeneratedAudioTextDataset
from spear_tts_pytorch.decoding.language_model import CharacterLM
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.recipe.backtranslation import CTCBacktranslator
from spear_tts_pytorch.recipe.settings import Settings
from spear_tts_pytorch.tokenizers.semantic import SemanticTokenizer
from spear_tts_pytorch.tokenizers.text import CharacterTokenizer
from spear_tts_pytorch.training.stages import SemanticToTextTrainer, SpeechSpeechPretrainer, TextToSemanticTrainer
from spear_tts_pytorch.training.trainer import Trainer

VALIDATIONS = 5  # of each training
Pair = tuple[Tensor, Tensor]
"""Speech ids `[n]` and text ids `[m]`, int64, without padding and end-of-sequence."""
OF_TEXT = ("token_emb.text.", "to_ctc_logits.")  # tensors of a model that depend on the alphabet


@dataclass
class Rows:
    """Clips as ids.

    Attributes:
        ids: names of the clips.
        semantic: speech ids `[n]` of each.
        text: text ids `[m]` of each, empty if the text is unknown.
        texts: normalised texts.
    """

    ids: list[str]
    semantic: list[Tensor]
    text: list[Tensor]
    texts: list[str]

    def __len__(self) -> int:
        return len(self.ids)

    def pairs(self) -> list[Pair]:
        """The speech and text ids of the clips with a text that have speech ids."""
        return [
            (speech, text) for speech, text in zip(self.semantic, self.text, strict=True) if len(speech) and len(text)
        ]

    def __repr__(self) -> str:
        speech, text = sum(map(len, self.semantic)), sum(map(len, self.text))
        return f"Rows({len(self)} clips, {speech:,} speech ids, {text:,} text ids)"


class SpeechIds(Dataset[Tensor]):
    """Speech ids `[n]` as a dataset with names, for the label generator."""

    def __init__(self, rows: Sequence[Tensor], ids: Sequence[str]):
        self.rows, self.ids = rows, list(ids)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        return self.rows[index]


@dataclass(frozen=True)
class Stages:
    """What all stages share.

    Attributes:
        settings: sizes and steps.
        tokenizer: of speech.
        characters: of text.
        rate: speech ids for each character, on average over the labelled clips.
        progress: shows bars, on terminals.
    """

    settings: Settings
    tokenizer: SemanticTokenizer
    characters: CharacterTokenizer
    rate: float
    progress: bool = True

    def new_model(self, start: TextToSemantic | None = None) -> TextToSemantic:
        """A model of the size in the settings, with both tokenizers; untrained, or with the weights of `start`.

        If `start` has another alphabet, the tensors of the letters stay untrained.
        """
        size = self.settings.model
        set_seed(self.settings.training.seed)
        model = TextToSemantic(
            size.dim,
            source_depth=size.depth,
            target_depth=size.depth,
            heads=size.heads,
            dim_head=size.dim // size.heads,
            tokenizer_encode=self.characters,
            wav2vec=self.tokenizer,
            ff_dropout=size.dropout,
            emb_dropout=size.dropout,
            add_positions=True,
            cross_attention_prior=True,
            text_position_rate=self.rate,
            ctc=True,
        )
        if start is not None:
            own, there = model.state_dict(), start.state_dict()
            anew = (
                {name: own[name] for name in own if name.startswith(OF_TEXT)} if _other_alphabet(model, start) else {}
            )
            model.load_state_dict({**there, **anew})
        return model

    def pretrain(
        self,
        speech: Sequence[Tensor],
        valid: Sequence[Tensor],
        folder: Path | None = None,
        start: TextToSemantic | None = None,
    ) -> Trained:
        """Stage 2: a model of speech from corrupted speech, trained on audio alone.

        Args:
            speech: speech ids `[n]` of all clips but the test's.
            valid: of clips to validate on.
            folder: for checkpoints and records; an interrupted training continues there.
            start: where its weights start; None starts from new ones.
        """
        steps = self.settings.pretrain
        options = {"reconstruct_seq": True, "dataset": speech, "valid_dataset": valid}
        return self._train(SpeechSpeechPretrainer, self.new_model(start), steps.steps, steps.lr, folder, **options)

    def read(
        self,
        pretrained: TextToSemantic | None,
        real: Sequence[Pair],
        valid: Sequence[Pair],
        labels: Sequence[Pair] = (),
        folder: Path | None = None,
    ) -> Trained:
        """Stage 3: a reader of speech by CTC, trained on pairs, and on pseudo-labels if given; encoder included."""
        stage = self.settings.backtranslate
        options = {"ctc_weight": 1.0, "token_dropout": stage.token_dropout, "freeze_encoder": False}
        options |= {"dataset": self.mixed(real, labels), "valid_dataset": valid}
        return self._train(SemanticToTextTrainer, self.new_model(pretrained), stage.steps, stage.lr, folder, **options)

    def label(self, reader: CTCBacktranslator, speech: SpeechIds, folder: Path) -> GeneratedAudioTextDataset:
        """Stage 4: pseudo-labels of speech, written to `folder`; clips that it holds already are not read again."""
        SemanticToTextDatasetGenerator(
            reader.model, dataset=speech, folder=folder, batch_size=64, decode=reader, progress=self.progress
        )()
        return GeneratedAudioTextDataset(folder)

    def speak(
        self,
        pretrained: TextToSemantic | None,
        real: Sequence[Pair],
        labels: Sequence[Pair] | None,
        valid: Sequence[Pair],
        folder: Path | None = None,
    ) -> list[Trained]:
        """Stage 5: a model of speech from text.

        Args:
            pretrained: where its weights start; None starts from new ones.
            real: labelled pairs.
            labels: pseudo-labelled pairs. The model trains on these and the real ones, then on the real ones alone. With
                None it trains on the real ones only, for `evaluate.scratch_steps` updates.
            valid: pairs to validate on.
            folder: for checkpoints and records.

        Returns:
            The trainings, one or two. The model of all is the same one.
        """
        stage, model = self.settings.train, self.new_model(pretrained)
        options: dict[str, Any] = {"freeze": "none", "valid_dataset": valid}
        if labels is None:
            steps = self.settings.evaluate.scratch_steps
            return [self._train(TextToSemanticTrainer, model, steps, stage.lr, folder, dataset=real, **options)]
        mixed = self.mixed(real, labels)
        first, second = (None, None) if folder is None else (folder / "mixed", folder / "real")
        done = [self._train(TextToSemanticTrainer, model, stage.steps, stage.lr, first, dataset=mixed, **options)]
        if stage.finetune_steps:
            steps, lr = stage.finetune_steps, stage.finetune_lr
            done.append(self._train(TextToSemanticTrainer, model, steps, lr, second, dataset=real, **options))
        return done

    def mixed(self, real: Sequence[Pair], labels: Sequence[Pair]) -> list[Pair]:
        """Pseudo-labelled pairs and the real ones, which are repeated until they have their share."""
        if not labels:
            return list(real)
        share = self.settings.train.real_share
        return [*labels, *list(real) * max(1, round(len(labels) * share / (1 - share) / len(real)))]

    def _train(
        self,
        trainer: Callable[..., Trainer],
        model: TextToSemantic,
        steps: int,
        lr: float,
        folder: Path | None,
        **options: Any,
    ) -> Trained:
        """Trains `model` in place. `options` are keywords of the trainer beyond those of all stages."""
        training = self._trainer(trainer, model, steps, lr, folder, **options)
        return Trained(model, *_validated(training, max(1, steps // VALIDATIONS)))

    def _trainer(
        self,
        trainer: Callable[..., Trainer],
        model: TextToSemantic,
        steps: int,
        lr: float,
        folder: Path | None,
        **options: Any,
    ) -> Trainer:
        """A trainer with the options of all stages."""
        common = self.settings.training
        return trainer(
            model,
            num_train_steps=steps,
            num_warmup_steps=min(80, steps // 4),
            batch_tokens=common.batch_tokens,
            lr=lr,
            min_lr=lr / 20,
            wd=0.01,
            max_grad_norm=1.0,
            label_smoothing=common.label_smoothing,
            save_results_every=0,
            save_model_every=common.save_every if folder is not None else 0,
            keep_last=1,
            log_every=max(1, steps // 60),
            results_folder=folder,
            accelerate_kwargs={} if common.precision == "no" else {"mixed_precision": common.precision},
            seed=common.seed,
            progress=self.progress,
            **options,
        )


def _validated(training: Trainer, every: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Trains to the end, and adds a validation to the records after `every` updates and at the end. Collective.

    Returns:
        The records, and the last validation.
    """

    def validate(step: int) -> dict[str, float]:
        found = training.validation.measure()
        if not any(one["step"] == step and "valid_loss" in one for one in training.history):
            training.records.add({"step": step, **found})
        return found

    def watch(logs: dict[str, Any]) -> None:
        if logs["step"] % every == 0 and logs["step"] < training.num_train_steps:
            validate(logs["step"])

    begun = int(training.steps)
    if begun:  # the run may have been interrupted between a checkpoint and its validation
        watch({"step": begun})
    training.train(watch)
    return training.history, validate(training.num_train_steps)


@dataclass
class Trained:
    """The result of a training.

    Attributes:
        model: the trained model.
        history: its training records.
        valid: the last validation: "valid_loss", and "accuracy" where there is one.
    """

    model: TextToSemantic
    history: list[dict[str, Any]]
    valid: dict[str, float]


def language_model(characters: CharacterTokenizer, texts: Sequence[str], order: int) -> CharacterLM:
    """A language model of normalised texts."""
    return CharacterLM.fit([characters.encode([text])[0] for text in texts], characters.vocab_size, order)


def backtranslator(model: TextToSemantic, texts: Sequence[str], settings: Settings) -> CTCBacktranslator:
    """The reader of stage 3 with a language model of texts, for labels and for choosing among samples."""
    stage = settings.label
    lm = language_model(model.text_tokenizer, texts, stage.lm_order) if stage.lm_weight > 0 else None
    return CTCBacktranslator(model, lm, stage.lm_weight, stage.length_bonus, stage.beam_size)


def speech_rate(rows: Rows) -> float:
    """Speech ids for each character of the text, on average."""
    return sum(map(len, rows.semantic)) / max(1, sum(map(len, rows.text)))


def _other_alphabet(model: TextToSemantic, other: TextToSemantic) -> bool:
    return model.text_tokenizer.to_dict() != other.text_tokenizer.to_dict()


def surest(pairs: GeneratedAudioTextDataset, share: float, ids: Collection[str] | None = None) -> list[Pair]:
    """A share of the pairs, those of the highest scores, ordered by name, without those in which nothing was read.

    Args:
        pairs: pseudo-labelled pairs.
        share: of the pairs that are considered, above 0 and at most 1.
        ids: names of the pairs that are considered; None is all.
    """
    scores = pairs.column("score")
    named = sorted((id_, place) for place, id_ in enumerate(pairs.ids) if ids is None or id_ in ids)
    places = [place for _, place in named]  # several processes write the pairs in another order than one
    given = torch.tensor([-torch.inf if scores[place] is None else scores[place] for place in places])
    order = given.argsort(descending=True, stable=True)[: max(1, round(share * len(places)))]
    chosen = [pairs[places[int(index)]] for index in order.sort().values]
    return [pair for pair in chosen if len(pair[0]) and len(pair[1])]
