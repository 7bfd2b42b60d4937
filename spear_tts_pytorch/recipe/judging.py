"""Stage 6: a judge reads what the models of the columns say.

In: `Results` of the earlier stages. Out: the figures of each column, and the judge's own errors on true ids.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.recipe.measure import Column, floor, make_judge, measure
from spear_tts_pytorch.recipe.records import RUN, Made, digest, write_history
from spear_tts_pytorch.recipe.results import Results

JUDGE = "judge.safetensors"


def evaluate_causes(results: Results) -> dict[str, Any]:
    """What the stage depends on."""
    return {
        "train": results.output("train"),
        "backtranslate": results.output("backtranslate"),
        "training": results.training_options(),
        "evaluate": results.settings.section("evaluate"),
        "test clips": digest(results.keys(results.clips.test, texts=True)),
        "clips": digest(results.keys(_judged(results), texts=True)),
    }


def _judged(results: Results) -> list[str]:
    """Ids of all clips with a text but the test's."""
    test = set(results.clips.test)
    return [id_ for id_ in results.clips.every if id_ not in test and results.clips.text(id_)]


def evaluate(results: Results) -> Made:
    """Measures the columns.

    Raises:
        ValueError: no clips are kept for testing.
    """
    folder, test = results.place("evaluate"), results.test
    if not test.ids:
        raise ValueError("data.test names no clips: write ids of clips with a text into a file, one a line")
    judge_pairs = results.rows(_judged(results)).pairs()
    clusters, path = results.settings.units.clusters, folder / JUDGE
    judge, losses = make_judge(path, judge_pairs, results.characters, clusters, results.settings, results.progress)
    history = {"judge": [{"step": step + 1, "loss": loss} for step, loss in enumerate(losses)]}
    columns: dict[str, Column] = {}
    for name in sorted(results.settings.evaluate.columns):
        model = results.model if name == "d" else _other_column(results, name, history)
        columns[name] = measure(model, judge, results.reader, test, results.settings)
    write_history(folder, history)
    figures = {
        "columns": {name: asdict(column) for name, column in columns.items()},
        "floor": floor(judge, results.characters, test),
        "judge_clips": len(judge_pairs),
        "test_clips": len(test),
    }
    cells = ", ".join(f"({name}) {column.cer:.1f} %" for name, column in columns.items())
    best = columns[max(columns)].cer_best
    cells += "" if best is None else f", best of {results.settings.evaluate.candidates} {best:.1f} %"
    says = f"character error rate {cells}; {figures['floor']:.1f} % of true speech"
    return Made(digest([json.dumps(figures, sort_keys=True)]), json.loads(json.dumps(figures)), says)


def _other_column(results: Results, name: str, history: dict[str, list[dict[str, Any]]]) -> TextToSemantic:
    """The model of a column that the voice itself does not need."""
    start = results.pretrained if name == "b" else None
    labels = results.labels() if name == "c" else None
    real = results.labelled.pairs()
    valid = results.development.pairs() or real
    done = results.stages.speak(start, real, labels, valid, results.place("evaluate") / f"{RUN}-{name}")
    history[f"({name})"] = done[0].history
    return done[-1].model
