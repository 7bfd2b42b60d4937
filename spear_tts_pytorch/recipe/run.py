"""The whole recipe as one function: a corpus in, trained models and character error rates out.

Columns as in the paper's table (arXiv 2302.03540): (a) from scratch, (b) pretrained, (c) backtranslation, (d) both.
`recipe/steps.py` has the stages, `recipe/demo.py` prints and writes the result.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spear_tts_pytorch.data.corpora.corpus import Corpus, minutes
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.recipe.backtranslation import CTCBacktranslator
from spear_tts_pytorch.recipe.config import RecipeConfig
from spear_tts_pytorch.recipe.evaluate import SemanticASR
from spear_tts_pytorch.recipe.steps import Column, Pair, Rows, Stages
from spear_tts_pytorch.utils.metrics import character_error_rate

COLUMNS = {
    "a": "from scratch",
    "b": "pretrained",
    "c": "backtranslation",
    "d": "pretrained + backtranslation",
}


@dataclass
class RecipeResult:
    """The models and figures that `run_recipe` made.

    Attributes:
        columns: error rates by the column's letter.
        floor: CER of the evaluator on the true ids of the test, percent.
        label_cer: CER of the pseudo-labels, percent; None if none were made, or no text of theirs is known.
        minutes: of audio in the parts "unlabelled", "labelled" and "test".
        seconds: by stage.
        histories: training records by stage.
        model: of the last column.
        backtranslator: None if only columns (a) and (b) ran.
        evaluator: the independent judge.
        test: the test texts and their true ids.
        config: as given to `run_recipe`.
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
    config: RecipeConfig = field(default_factory=RecipeConfig)

    def __repr__(self) -> str:
        rates = ", ".join(f"({name}) {column.headline:.1f} %" for name, column in self.columns.items())
        labels = "" if self.label_cer is None else f", pseudo-labels {self.label_cer:.1f} %"
        return (
            f"RecipeResult(CER {rates}, floor {self.floor:.1f} %{labels},\n"
            f"  {self.minutes['labelled']:.1f} labelled and {self.minutes['unlabelled']:.1f} unlabelled minutes, "
            f"{len(self.test.texts)} test texts, {sum(self.seconds.values()):.0f} s)"
        )


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
        config: sizes and steps; those of `RecipeConfig()` if None.
        columns: letters of `COLUMNS`.
        pairs_folder: where the pseudo-labelled pairs are kept; by default they are deleted.
        seed: of everything random.
        progress: shows bars, on terminals.

    Raises:
        ValueError: a letter that is not in `COLUMNS`.
    """
    if not columns or set(columns) - set(COLUMNS):
        raise ValueError(f"columns must be letters of {''.join(COLUMNS)}, got {columns!r}")
    stages = Stages(corpus, config or RecipeConfig(), seed, progress)
    stages.tokenize()
    pretrained = stages.pretrain() if set(columns) & set("bcd") else None
    backtranslator: CTCBacktranslator | None = None
    labels: list[Pair] | None = None
    label_cer: float | None = None
    if pretrained is not None and set(columns) & set("cd"):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(pairs_folder or temporary).absolute()
            backtranslator, labels, label_cer = stages.pseudo_label(pretrained, folder)
    evaluator = stages.train_evaluator()
    results: dict[str, Column] = {}

    def measured(column: str) -> TextToSemantic:
        start, pairs = pretrained if column in "bd" else None, labels if column in "cd" else None
        model = stages.forward_model(column, start, pairs)
        results[column] = stages.evaluate(model, evaluator, backtranslator)
        return model

    model = [measured(column) for column in sorted(columns)][-1]
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
        config=stages.config,
    )
