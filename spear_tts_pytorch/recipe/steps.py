"""The stages of the recipe, each a method: tokenizers, pretraining, backtranslator, pseudo-labels, forward model, judge.

In: a corpus and a `RecipeConfig`. Out of each stage: ids, a trained model, pairs or error rates. Each stage also leaves
the seconds it took and its training records. `recipe/run.py` calls the stages in their order.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import Tensor
from torch.utils.data import Dataset

from spear_tts_pytorch.data.corpora.corpus import Corpus, Utterance, without_bad_audio
from spear_tts_pytorch.data.generator import SemanticToTextDatasetGenerator
from spear_tts_pytorch.data.pairs.dataset import GeneratedAudioTextDataset
from spear_tts_pytorch.decoding.ctc import CharacterLM
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.recipe.backtranslation import CTCBacktranslator, speak
from spear_tts_pytorch.recipe.config import RecipeConfig
from spear_tts_pytorch.recipe.evaluate import SemanticASR
from spear_tts_pytorch.tokenizers.mel_kmeans import MelKmeans
from spear_tts_pytorch.tokenizers.semantic import tokenize_clips
from spear_tts_pytorch.tokenizers.text import CharacterTokenizer, normalize_text
from spear_tts_pytorch.training.stages import SemanticToTextTrainer, SpeechSpeechPretrainer, TextToSemanticTrainer
from spear_tts_pytorch.training.trainer import Trainer
from spear_tts_pytorch.utils.metrics import bootstrap_interval, character_error_rate, character_errors

Pair = tuple[Tensor, Tensor]
"""Speech ids `[n]` and text ids `[m]`, int64, without padding and end-of-sequence."""


@dataclass
class Rows:
    """Tokenised utterances: speech ids `[n]`, text ids `[m]` (empty if the text is unknown) and normalised texts."""

    semantic: list[Tensor]
    text: list[Tensor]
    texts: list[str]

    def pairs(self) -> list[Pair]:
        """The speech and text ids of each utterance."""
        return list(zip(self.semantic, self.text, strict=True))

    def __repr__(self) -> str:
        speech, text = sum(map(len, self.semantic)), sum(map(len, self.text))
        return f"Rows({len(self.texts)} utterances, {speech:,} speech ids, {text:,} text ids)"


@dataclass
class Column:
    """One row of the table: the character error rates of a model's speech of the test texts.

    Attributes:
        cer: of greedy decoding, percent.
        interval: the 95 % bootstrap interval of `cer`.
        cer_best: of the best of several samples, percent. The backtranslator chooses, in all columns alike; None if there
            is no backtranslator or one sample only.
        length_ratio: ids generated for each true id.
    """

    cer: float
    interval: tuple[float, float]
    cer_best: float | None
    length_ratio: float

    @property
    def headline(self) -> float:
        """The figure for summaries and pictures, percent: the best of several samples if there are, else greedy."""
        return self.cer if self.cer_best is None else self.cer_best

    def __repr__(self) -> str:
        best = "" if self.cer_best is None else f", best of several {self.cer_best:.1f} %"
        low, high = self.interval
        return f"Column(CER {self.cer:.1f} % [{low:.1f}, {high:.1f}]{best}, length {self.length_ratio:.2f})"


class _SemanticDataset(Dataset[Tensor]):
    """Speech ids `[n]`, with names in `ids` for the label generator."""

    def __init__(self, rows: Sequence[Tensor], ids: Sequence[str]):
        self.rows, self.ids = rows, list(ids)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        return self.rows[index]


class Stages:
    """The stages, each a method. `tokenize` comes first; the arguments of the others are results of earlier ones.

    Args:
        corpus: see `data.corpora`.
        config: sizes and steps.
        seed: of everything random.
        progress: shows bars, on terminals.

    Attributes:
        seconds: what each stage took.
        histories: the training records of each stage.
        tokenizer, characters: of speech and of text, made by `tokenize`.
        unlabelled, labelled, test: the parts of the corpus as ids, made by `tokenize`.
        rate: speech ids for each character, on average over the labelled part.
    """

    tokenizer: MelKmeans
    characters: CharacterTokenizer
    unlabelled: Rows
    labelled: Rows
    test: Rows
    rate: float

    def __init__(self, corpus: Corpus, config: RecipeConfig, seed: int = 0, progress: bool = True):
        self.corpus, self.config, self.seed, self.progress = corpus, config, seed, progress
        self.seconds: dict[str, float] = {}
        self.histories: dict[str, list[dict[str, Any]]] = {}

    def __repr__(self) -> str:
        done = ", ".join(f"{stage} {spent:.0f} s" for stage, spent in self.seconds.items()) or "nothing"
        return f"Stages({self.corpus.name}, {len(self.corpus.labelled)} labelled, seed {self.seed}; done: {done})"

    @contextmanager
    def _timed(self, stage: str) -> Generator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def tokenize(self) -> None:
        """Fits both tokenizers and turns the corpus into ids."""
        config = self.config
        with self._timed("tokenizer"):
            corpus = self.corpus = without_bad_audio(self.corpus)
            speech = [*corpus.unlabelled, *corpus.labelled]
            sample_hz = speech[0].sample_hz
            fitted_on = speech[:: max(1, len(speech) // 600)]
            self.tokenizer = MelKmeans.fit(
                [utterance.audio() for utterance in fitted_on],
                sample_hz,
                config.num_clusters,
                target_sample_hz=min(sample_hz, 16_000),
                unique_consecutive=True,
                seed=self.seed,
                progress=self.progress,
            )
            # The alphabet is known, so the tokenizer sees the characters of all texts; no model trains on test texts.
            everything = [*speech, *corpus.test]
            self.characters = CharacterTokenizer.fit([u.text for u in everything if u.text is not None])
            self.unlabelled, self.labelled, self.test = (
                self._rows(part) for part in (corpus.unlabelled, corpus.labelled, corpus.test)
            )
        ids = sum(map(len, self.labelled.semantic))
        self.rate = ids / sum(map(len, self.labelled.text))

    def _rows(self, utterances: Sequence[Utterance]) -> Rows:
        semantic: list[Tensor] = []
        for start in range(0, len(utterances), 64):
            clips = [torch.as_tensor(u.audio()) for u in utterances[start : start + 64]]
            semantic += tokenize_clips(self.tokenizer, clips, utterances[start].sample_hz)
        texts = [normalize_text(u.text or "") for u in utterances]
        nothing = torch.empty(0, dtype=torch.long)
        return Rows(semantic, [self.characters.encode([text])[0] if text else nothing for text in texts], texts)

    def new_model(self) -> TextToSemantic:
        """An untrained model of the configured size, with both tokenizers."""
        config = self.config
        return TextToSemantic(
            config.dim,
            source_depth=config.depth,
            target_depth=config.depth,
            heads=config.heads,
            dim_head=config.dim // config.heads,
            tokenizer_encode=self.characters,
            wav2vec=self.tokenizer,
            ff_dropout=config.dropout,
            emb_dropout=config.dropout,
            add_positions=True,
            cross_attention_prior=True,
            text_position_rate=self.rate,
            ctc=True,
        )

    def _start(self, start: TextToSemantic | None) -> TextToSemantic:
        """A new model, with the weights of `start` if there is one."""
        set_seed(self.seed)
        model = self.new_model()
        if start is not None:
            model.load_state_dict(start.state_dict())
        return model

    def _train(
        self,
        stage: str,
        make_trainer: Callable[..., Trainer],
        model: TextToSemantic,
        steps: int,
        lr: float,
        **options: Any,
    ) -> None:
        """Trains `model` in place. `options` are keywords of the trainer beyond those of all stages."""
        with self._timed(stage):
            training = make_trainer(
                model,
                num_train_steps=steps,
                num_warmup_steps=min(80, steps // 4),
                batch_tokens=self.config.batch_tokens,
                lr=lr,
                min_lr=lr / 20,
                wd=0.01,
                max_grad_norm=1.0,
                label_smoothing=self.config.label_smoothing,
                save_results_every=0,
                log_every=max(1, steps // 60),
                results_folder=None,
                seed=self.seed,
                progress=self.progress,
                **options,
            )
            training.train()
        self.histories[stage] = training.history

    def pretrain(self) -> TextToSemantic:
        """A model of speech from corrupted speech, trained on audio alone."""
        model = self._start(None)
        self._train(
            "pretraining",
            SpeechSpeechPretrainer,
            model,
            self.config.pretrain_steps,
            self.config.lr,
            dataset=self.unlabelled.semantic + self.labelled.semantic,
            reconstruct_seq=True,
            valid_dataset=self.labelled.semantic,
        )
        return model

    def backtranslate(self, pretrained: TextToSemantic, labels: list[Pair] | None = None) -> CTCBacktranslator:
        """A reader of speech by CTC, trained on the labelled pairs, and on pseudo-labels if given; encoder included."""
        model, config = self._start(pretrained), self.config
        self._train(
            "backtranslator" if labels is None else "backtranslator again",
            SemanticToTextTrainer,
            model,
            config.backtranslator_steps,
            config.backtranslator_lr,
            dataset=self._mixed(labels),
            valid_dataset=self.labelled.pairs(),
            ctc_weight=1.0,
            token_dropout=config.token_dropout,
            freeze_encoder=False,
        )
        lm = None
        if config.lm_weight > 0:
            lm = CharacterLM.fit(self.labelled.text, self.characters.vocab_size, config.lm_order)
        return CTCBacktranslator(model, lm, config.lm_weight, config.length_bonus)

    def _mixed(self, labels: list[Pair] | None) -> list[Pair]:
        """The real pairs, or the pseudo-labelled ones and the real ones, repeated until these have their share."""
        real = self.labelled.pairs()
        if labels is None:
            return real
        share = self.config.real_share
        return labels + real * max(1, round(len(labels) * share / (1 - share) / len(real)))

    def label(self, backtranslator: CTCBacktranslator, folder: Path, keep: float) -> tuple[list[Pair], float | None]:
        """Pseudo-labels of unlabelled speech, written to `folder`.

        Returns:
            The pairs with the best scores, a share `keep`, without empty labels; and the CER in percent of all labels of
            utterances whose text is known, None if no text is.
        """
        count = self.config.pseudo_labels
        names = [utterance.id for utterance in self.corpus.unlabelled[:count]]
        dataset = _SemanticDataset(self.unlabelled.semantic[:count], names)
        with self._timed("pseudo-labels"):
            SemanticToTextDatasetGenerator(
                backtranslator.model,
                dataset=dataset,
                folder=folder,
                batch_size=64,
                decode=backtranslator,
                progress=self.progress,
            )()
            labels = GeneratedAudioTextDataset(folder)
        truth = dict(zip(names, self.unlabelled.texts, strict=False))
        read = [self.characters.decode(text_ids)[0] for _, text_ids in labels]
        compared = [(text, truth[name]) for text, name in zip(read, labels.ids, strict=True) if truth[name]]
        cer = character_error_rate([one for one, _ in compared], [one for _, one in compared]) if compared else None
        scores = torch.tensor([-torch.inf if score is None else score for score in labels.column("score")])
        surest = scores.argsort(descending=True, stable=True)[: max(1, round(keep * len(scores)))]
        pairs = [labels[int(place)] for place in surest.sort().values]
        return [pair for pair in pairs if len(pair[1])], cer

    def pseudo_label(
        self, pretrained: TextToSemantic, folder: Path
    ) -> tuple[CTCBacktranslator, list[Pair], float | None]:
        """The backtranslator, trained again on its surest labels; its labels, see `label`; and their CER in percent."""
        backtranslator = self.backtranslate(pretrained)
        for _ in range(self.config.self_training_rounds):
            with tempfile.TemporaryDirectory() as temporary:
                sure, _ = self.label(backtranslator, Path(temporary), self.config.sure_labels)
            backtranslator = self.backtranslate(pretrained, sure)
        return backtranslator, *self.label(backtranslator, folder, self.config.keep_labels)

    def forward_model(
        self, column: str, pretrained: TextToSemantic | None, labels: list[Pair] | None
    ) -> TextToSemantic:
        """A model of speech from text.

        Args:
            column: its letter, for the names of stages.
            pretrained: where its weights start; new ones if None.
            labels: pseudo-labelled pairs. It trains on these and the real ones, then on the real ones alone. If None, it
                trains on the real ones only.
        """
        model, config, pairs = self._start(pretrained), self.config, self.labelled.pairs()

        def train(stage: str, steps: int, lr: float, dataset: list[Pair]) -> None:
            options = {"dataset": dataset, "valid_dataset": pairs, "freeze": "none"}
            self._train(stage, TextToSemanticTrainer, model, steps, lr, **options)

        if labels is None:
            train(f"({column})", config.scratch_steps, config.lr, pairs)
            return model
        train(f"({column})", config.forward_steps, config.lr, self._mixed(labels))
        if config.finetune_steps:
            train(f"({column}) finetune", config.finetune_steps, config.finetune_lr, pairs)
        return model

    def train_evaluator(self) -> SemanticASR:
        """The independent judge, trained on all utterances whose text is known except the test's."""
        pairs = [pair for part in (self.unlabelled, self.labelled) for pair in part.pairs() if len(pair[1])]
        set_seed(self.seed + 1)
        evaluator = SemanticASR(self.config.num_clusters, self.characters.vocab_size)
        with self._timed("evaluator"):
            losses = evaluator.fit(
                pairs,
                steps=self.config.evaluator_steps,
                batch_tokens=self.config.batch_tokens,
                seed=self.seed,
                progress=self.progress,
            )
        self.histories["evaluator"] = [{"step": step + 1, "loss": loss} for step, loss in enumerate(losses)]
        return evaluator

    def read(self, evaluator: SemanticASR, rows: Sequence[Tensor]) -> list[str]:
        """The texts that the evaluator reads in rows of speech ids `[n]`."""
        return read_texts(evaluator, self.characters, rows)

    def evaluate(
        self, model: TextToSemantic, evaluator: SemanticASR, backtranslator: CTCBacktranslator | None
    ) -> Column:
        """Has the model say the test texts, and the evaluator read them."""
        with self._timed("evaluation"):
            greedy = speak(model, self.test.texts)
            errors, lengths = character_errors(self.read(evaluator, greedy), self.test.texts)
            best = None
            if backtranslator is not None and self.config.candidates > 1:
                chosen = speak(
                    model,
                    self.test.texts,
                    backtranslator=backtranslator,
                    candidates=self.config.candidates,
                    temperature=self.config.temperature,
                    generator=torch.Generator(device=model.device).manual_seed(self.seed),
                )
                best = character_error_rate(self.read(evaluator, chosen), self.test.texts)
        ratio = sum(map(len, greedy)) / sum(map(len, self.test.semantic))
        return Column(100 * sum(errors) / sum(lengths), bootstrap_interval(errors, lengths), best, ratio)


def read_texts(evaluator: SemanticASR, characters: CharacterTokenizer, rows: Sequence[Tensor]) -> list[str]:
    """The texts that an evaluator reads in rows of speech ids `[n]`; "" for an empty row."""
    return [characters.decode(ids)[0] if len(ids) else "" for ids in evaluator.transcribe(rows)]
