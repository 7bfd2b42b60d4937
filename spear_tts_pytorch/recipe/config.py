"""Sizes, steps and options of the recipe. In: keywords. Out: a `RecipeConfig`, which all stages read."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class RecipeConfig:
    """Sizes, steps and options of `run_recipe`. With the defaults training takes minutes on two CPU cores.

    Attributes:
        unlabelled: utterances with audio only, for a corpus that is made or composed; None leaves it to the corpus.
        test_utterances: texts held out; a small corpus holds out fewer.
        dim, depth, heads: width, layers (of the encoder and of the decoder) and attention heads of the models.
        dropout: in the feedforward layers and after the embeddings.
        label_smoothing: of all trainings but the evaluator's.
        num_clusters: K, the number of ids of the semantic tokenizer.
        batch_tokens: ids in a batch, padding included.
        lr, backtranslator_lr, finetune_lr: highest learning rates: of pretraining and of text to speech, of the
            backtranslator, and of the last steps on real pairs alone.
        pretrain_steps, backtranslator_steps, evaluator_steps: updates of these models.
        scratch_steps: updates of text to speech on real pairs alone, columns (a) and (b).
        forward_steps, finetune_steps: updates of text to speech on pseudo-labelled and real pairs, and then on real pairs
            alone, columns (c) and (d).
        token_dropout: share of speech ids that are deleted in the backtranslator's training.
        pseudo_labels: unlabelled utterances that are pseudo-labelled, at most.
        lm_weight: weight of the character language model in pseudo-labelling; 0 leaves it out. It is fitted on the
            labelled texts.
        lm_order: characters that the language model looks at, the predicted one included.
        length_bonus: added to the score of a label for each character, in nats.
        self_training_rounds: how often the backtranslator is trained again on the real pairs and its own surest labels.
        sure_labels: share of the labels used for that, the surest first.
        keep_labels: share of the labels that text to speech learns from, the surest first.
        real_share: share of real pairs in a training on real and pseudo-labelled pairs; real pairs are repeated for it.
        candidates, temperature: samples per text among which the backtranslator chooses, and their temperature.
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
        """The same with smaller models and fewer steps: about a minute, too short for the figures to mean much."""
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
