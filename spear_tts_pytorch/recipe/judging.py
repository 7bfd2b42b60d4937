"""Stage 6: a judge reads what the models of the columns say.

In: `Results` of the earlier stages. Out: the figures of each column, and the judge's own errors on true ids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from spear_tts_pytorch.recipe.columns import column, column_history, in_order, known_ids
from spear_tts_pytorch.recipe.measure import floor, make_judge
from spear_tts_pytorch.recipe.records import Made, digest, write_history
from spear_tts_pytorch.recipe.results import Results
from spear_tts_pytorch.utils.files import digest_of_file

JUDGE = "judge.safetensors"


def evaluate_causes(results: Results) -> dict[str, Any]:
    """What the stage depends on."""
    return {
        "train": results.output("train"),
        "backtranslate": results.output("backtranslate"),
        "training": results.training_options(),
        "evaluate": results.settings.section("evaluate"),
        "test clips": digest(results.keys(results.clips.test, texts=True)),
        "clips": digest(results.keys(known_ids(results), texts=True)),
    }


def evaluate(results: Results) -> Made:
    """Measures the columns.

    Raises:
        ValueError: no clips are kept for testing.
    """
    folder, test = results.place("evaluate"), results.test
    if not test.ids:
        raise ValueError("data.test names no clips: write ids of clips with a text into a file, one a line")
    judge_pairs = results.rows(known_ids(results)).pairs()
    clusters, path = results.settings.units.clusters, folder / JUDGE
    judge, losses = make_judge(path, judge_pairs, results.characters, clusters, results.settings, results.progress)
    history = {"judge": [{"step": step + 1, "loss": loss} for step, loss in enumerate(losses)]}
    columns: dict[str, Mapping[str, Any]] = {}
    for name in in_order(results.settings.evaluate.columns):
        columns[name] = column(results, name, judge, digest_of_file(path)).figures
        history |= column_history(results, name)
    write_history(folder, history)
    figures = {
        "columns": columns,
        "floor": floor(judge, results.characters, test),
        "judge_clips": len(judge_pairs),
        "test_clips": len(test),
    }
    cells = ", ".join(f"({name}) {one['cer']:.1f} %" for name, one in columns.items())
    best = columns["d" if "d" in columns else list(columns)[-1]]["cer_best"]
    cells += "" if best is None else f", best of {results.settings.evaluate.candidates} {best:.1f} %"
    says = f"character error rate {cells}; {figures['floor']:.1f} % of true speech"
    return Made(digest([json.dumps(figures, sort_keys=True)]), json.loads(json.dumps(figures)), says)
