"""The whole recipe as one function: a corpus in, trained models and character error rates out.

Columns as in the paper's table (arXiv 2302.03540): (a) from scratch, (b) pretrained, (c) backtranslation, (d) both. What
the stages are is `stages.py`'s business, what is printed and written `demo.py`'s.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spear_tts_pytorch.data.corpora.corpus import Corpus, minutes
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.recipe.backtranslation import CTCBacktranslator
from spear_tts_pytorch.recipe.evaluate import SemanticASR, character_error_rate
from spear_tts_pytorch.recipe.steps import Column, RecipeConfig, Rows, Stages

COLUMNS = {
    "a": "from scratch",
    "b": "pretrained",
    "c": "backtranslation",
    "d": "pretrained + backtranslation",
}


@dataclass
class RecipeResult:
    """What `run_recipe` made and measured.

    Attributes:
        floor: CER of the evaluator on the true ids of the test, percent.
        label_cer: CER of the pseudo-labels, percent; None if a corpus has no texts to compare with or none were made.
        seconds: by stage.
        histories: training records by stage.
    """

    columns: dict[str, Column]
    floor: float
    label_cer: float | None
    minutes: dict[str, float]
    seconds: dict[str, float]
    histories: dict[str, list[dict[str, Any]]]
    model: TextToSemantic
    backtranslator: CTCBacktranslator | None
    evaluator: SemanticASR
    test: Rows
    config: RecipeConfig = field(repr=False, default_factory=RecipeConfig)


def run_recipe(
    corpus: Corpus,
    config: RecipeConfig | None = None,
    *,
    columns: str = "ad",
    pairs_folder: str | Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> RecipeResult:
    """Runs the recipe on a corpus and measures the columns asked for.

    Args:
        corpus: unlabelled, labelled and test utterances.
        columns: letters of `COLUMNS`.
        pairs_folder: where the pseudo-labelled pairs are kept; by default they are not.

    Raises:
        ValueError: a letter that is no column.
    """
    if not columns or set(columns) - set(COLUMNS):
        raise ValueError(f"columns must be letters of {''.join(COLUMNS)}, got {columns!r}")
    config = config or RecipeConfig()
    stages = Stages(corpus, config, seed, progress)
    stages.tokenize()
    pretrained = stages.pretrain() if set(columns) & set("bcd") else None
    backtranslator, labels, label_cer = None, None, None
    if set(columns) & set("cd"):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(pairs_folder or temporary)
            backtranslator, labels, label_cer = stages.pseudo_label(pretrained, folder)
    evaluator = stages.train_evaluator()
    results, model = {}, None
    for column in sorted(columns):
        with_labels = column in "cd"
        model = stages.forward_model(column, pretrained if column in "bd" else None, labels if with_labels else None)
        results[column] = stages.evaluate(model, evaluator, backtranslator)
    read = stages.read(evaluator, stages.test.semantic)
    return RecipeResult(
        columns=results,
        floor=character_error_rate(read, stages.test.texts),
        label_cer=label_cer,
        minutes={name: minutes(getattr(corpus, name)) for name in ("unlabelled", "labelled", "test")},
        seconds=stages.seconds,
        histories=stages.histories,
        model=model,
        backtranslator=backtranslator,
        evaluator=evaluator,
        test=stages.test,
        config=config,
    )
