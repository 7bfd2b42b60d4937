"""The stages of the recipe, each a method: tokenizers, pretraining, backtranslator, pseudo-labels, forward model, judge.

In: a corpus and a `RecipeConfig`. Out of each stage: ids, a trained model, pairs or error rates, and the seconds and
training records it left. The order of the stages is `recipe.py`'s business.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from spear_tts_pytorch.recipe.evaluate import SemanticASR, bootstrap_interval, character_error_rate, character_errors
from spear_tts_pytorch.tokenizers.mel_kmeans import MelKmeans
from spear_tts_pytorch.tokenizers.semantic import tokenize_clips
from spear_tts_pytorch.tokenizers.text import CharacterTokenizer, normalize_text
from spear_tts_pytorch.training.stages import SemanticToTextTrainer, SpeechSpeechPretrainer, TextToSemanticTrainer


@dataclass(frozen=True)
class RecipeConfig:
    """Sizes, steps and options of `recipe.run_recipe`; the defaults suit minutes of training on two CPU cores.

    Attributes:
        unlabelled: utterances with audio only, where a corpus is made or composed; None leaves it to the corpus.
        test_utterances: texts held out, fewer in a small corpus.
        num_clusters: K of the semantic tokenizer.
        batch_tokens: ids in a batch, padding included.
        pseudo_labels: unlabelled utterances that are pseudo-labelled, at most.
        lm_weight: of the character language model, fitted on the labelled texts, in pseudo-labelling; 0 is without.
        self_training_rounds: how often the backtranslator is trained again on the real pairs and its own surest labels.
        sure_labels: share of the labels taken for that, the surest first.
        keep_labels: share of the labels that the forward model learns from, the surest first.
        candidates, temperature: samples per text among which the backtranslator chooses.
        real_share: share of real pairs among the pairs trained on together with pseudo-labelled ones, by repetition.
    """

    unlabelled: int | None = None
    test_utterances: int = 100
    dim: int = 128
    depth: int = 3
    heads: int = 4
    dropout: float = 0.1
    label_smoothing: float = 0.1
    num_clusters: int = 100
    batch_tokens: int = 2500
    lr: float = 1.5e-3
    pretrain_steps: int = 450
    backtranslator_steps: int = 300
    backtranslator_lr: float = 1e-3
    token_dropout: float = 0.15
    scratch_steps: int = 300
    forward_steps: int = 400
    finetune_steps: int = 50
    finetune_lr: float = 1e-4
    evaluator_steps: int = 300
    pseudo_labels: int = 2000
    lm_weight: float = 1.0
    lm_order: int = 6
    length_bonus: float = 0.0
    self_training_rounds: int = 1
    sure_labels: float = 0.5
    keep_labels: float = 1.0
    real_share: float = 0.1
    candidates: int = 4
    temperature: float = 0.5

    def quick(self) -> RecipeConfig:
        """About a minute instead of minutes: too short for the figures to mean much."""
        return replace(
            self,
            unlabelled=600,
            dim=64,
            heads=2,
            depth=2,
            pretrain_steps=60,
            backtranslator_steps=60,
            scratch_steps=60,
            forward_steps=80,
            finetune_steps=10,
            evaluator_steps=120,
            pseudo_labels=300,
        )


@dataclass
class Rows:
    """Tokenised utterances: speech ids `[n]`, text ids `[m]` and texts, one of each per utterance."""

    semantic: list[Tensor]
    text: list[Tensor]
    texts: list[str]

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.semantic, self.text, strict=True))


@dataclass
class Column:
    """One cell of the table: what a model's speech of the test texts reads as.

    Attributes:
        cer: of greedy decoding, percent, with `interval`, its 95 % bootstrap interval.
        cer_best: of the best of several samples, chosen by the backtranslator, whatever the column; None without one.
        length_ratio: ids generated for each true id.
    """

    cer: float
    interval: tuple[float, float]
    cer_best: float | None
    length_ratio: float


class _SemanticDataset(Dataset):
    """Speech ids with names, for the generator."""

    def __init__(self, rows: Sequence[Tensor], ids: Sequence[str]):
        self.rows, self.ids = rows, list(ids)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        return self.rows[index]


class Stages:
    """The stages, each a method; what one needs of another it is given.

    Args:
        corpus: see `data.corpora`.
        config: sizes and steps.
        seed: of everything random.
        progress: shows bars, on terminals.
    """

    def __init__(self, corpus: Corpus, config: RecipeConfig, seed: int = 0, progress: bool = True):
        self.corpus, self.config, self.seed, self.progress = corpus, config, seed, progress
        self.seconds: dict[str, float] = {}
        self.histories: dict[str, list[dict[str, Any]]] = {}

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
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
            # which characters there are is known of a language; what is written with them stays unknown
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
        return Rows(
            semantic, [self.characters.encode([text])[0] if text else torch.tensor([]) for text in texts], texts
        )

    def new_model(self) -> TextToSemantic:
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

    def _train(self, stage: str, trainer: Callable[..., Any], steps: int, lr: float, **options: Any) -> None:
        with self._timed(stage):
            training = trainer(
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
        """Speech from corrupted speech, on audio alone."""
        model = self._start(None)
        dataset = self.unlabelled.semantic + self.labelled.semantic
        options = dict(dataset=dataset, reconstruct_seq=True, valid_dataset=self.labelled.semantic)
        self._train(
            "pretraining",
            lambda **training: SpeechSpeechPretrainer(model, None, **training),
            self.config.pretrain_steps,
            self.config.lr,
            **options,
        )
        return model

    def backtranslate(
        self, pretrained: TextToSemantic, labels: list[tuple[Tensor, Tensor]] | None = None
    ) -> CTCBacktranslator:
        """Text from speech by CTC, on the labelled pairs, and on pseudo-labels if given; the encoder trains too."""
        model, config = self._start(pretrained), self.config
        self._train(
            "backtranslator" if labels is None else "backtranslator again",
            lambda **training: SemanticToTextTrainer(model, **training),
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

    def _mixed(self, labels: list[tuple[Tensor, Tensor]] | None) -> list[tuple[Tensor, Tensor]]:
        """The real pairs, repeated to their share among the pseudo-labelled ones if there are any."""
        real = self.labelled.pairs()
        if labels is None:
            return real
        share = self.config.real_share
        return labels + real * max(1, round(len(labels) * share / (1 - share) / len(real)))

    def label(
        self, backtranslator: CTCBacktranslator, folder: Path, keep: float
    ) -> tuple[list[tuple[Tensor, Tensor]], float | None]:
        """Pseudo-labels of unlabelled speech, written to `folder`.

        Returns:
            The share `keep` of the pairs, the surest, and the CER of all of them where there are texts to compare with.
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
        compared = [(self.characters.decode(labels[i][1])[0], truth[name]) for i, name in enumerate(labels.ids)]
        compared = [(read, text) for read, text in compared if text]
        cer = character_error_rate(*map(list, zip(*compared, strict=True))) if compared else None
        scores = torch.tensor([-torch.inf if score is None else score for score in labels.column("score")])
        surest = scores.argsort(descending=True, stable=True)[: max(1, round(keep * len(scores)))]
        pairs = [labels[i] for i in sorted(surest.tolist())]
        return [pair for pair in pairs if len(pair[1])], cer

    def pseudo_label(
        self, pretrained: TextToSemantic, folder: Path
    ) -> tuple[CTCBacktranslator, list[tuple[Tensor, Tensor]], float | None]:
        """The backtranslator, trained again on its surest labels; its labels, and their CER."""
        backtranslator = self.backtranslate(pretrained)
        for _ in range(self.config.self_training_rounds):
            with tempfile.TemporaryDirectory() as temporary:
                sure, _ = self.label(backtranslator, Path(temporary), self.config.sure_labels)
            backtranslator = self.backtranslate(pretrained, sure)
        return backtranslator, *self.label(backtranslator, folder, self.config.keep_labels)

    def forward_model(
        self, column: str, pretrained: TextToSemantic | None, labels: list[tuple[Tensor, Tensor]] | None
    ) -> TextToSemantic:
        """Speech from text: on the pseudo-labelled and the real pairs and then the real ones alone, or on these only."""
        model, config, pairs = self._start(pretrained), self.config, self.labelled.pairs()

        def trainer(**training: Any) -> TextToSemanticTrainer:
            return TextToSemanticTrainer(model, freeze="none", valid_dataset=pairs, **training)

        if labels is None:
            self._train(f"({column})", trainer, config.scratch_steps, config.lr, dataset=pairs)
            return model
        self._train(f"({column})", trainer, config.forward_steps, config.lr, dataset=self._mixed(labels))
        if config.finetune_steps:
            self._train(f"({column}) finetune", trainer, config.finetune_steps, config.finetune_lr, dataset=pairs)
        return model

    def train_evaluator(self) -> SemanticASR:
        """The independent judge, trained on all pairs there are but those of the test."""
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
        """What the evaluator reads in rows of speech ids."""
        return read_texts(evaluator, self.characters, rows)

    def evaluate(
        self, model: TextToSemantic, evaluator: SemanticASR, backtranslator: CTCBacktranslator | None
    ) -> Column:
        """Says the test texts and has them read."""
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
    """What an evaluator reads in rows of speech ids `[n]`; "" in an empty one."""
    return [characters.decode(ids)[0] if len(ids) else "" for ids in evaluator.transcribe(rows)]
