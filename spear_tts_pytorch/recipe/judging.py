"""Stage 6: a judge reads what the models of the columns say.

In: `Results` of the earlier stages. Out: the figures of each column, and the judge's own errors on true ids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from spear_tts_pytorch.recipe.columns import OF_A_RECOGNISER, column, column_history, in_order, known_ids, measured_ids
from spear_tts_pytorch.recipe.judge import judge_causes, judge_of
from spear_tts_pytorch.recipe.measure import floor, shown_rate
from spear_tts_pytorch.recipe.records import Made, digest, write_history
from spear_tts_pytorch.recipe.results import RESYNTHESIS, Results
from spear_tts_pytorch.recipe.resynthesis import Ear

OF_THE_JUDGE = ("judge", "judge_steps", "judge_patience", "judge_width")  # settings that `judge_causes` has


def evaluate_causes(results: Results) -> dict[str, Any]:
    """What the stage depends on."""
    options = results.settings.section("evaluate")
    left_out = {*OF_THE_JUDGE, *(() if options["recogniser"] else OF_A_RECOGNISER)}
    causes = {
        "train": results.output("train"),
        "backtranslate": results.output("backtranslate"),
        "training": results.training_options(),
        "evaluate": {key: value for key, value in options.items() if key not in left_out},
        "judge": judge_causes(results),
        "clips to measure on": digest(results.keys(measured_ids(results), texts=True)),
        "clips": digest(results.keys(known_ids(results), texts=True)),
    }
    if results.settings.resynthesis.steps:
        causes[RESYNTHESIS] = results.output(RESYNTHESIS)
    return causes


def evaluate(results: Results) -> Made:
    """Measures the columns.

    Raises:
        ValueError: there are no clips to measure on.
    """
    test, judge = results.rows(measured_ids(results)), judge_of(results)
    history = {"judge": [dict(one) for one in judge.curve]}
    columns: dict[str, Mapping[str, Any]] = {}
    listener = Ear(results, test) if results.network is not None else None
    for name in in_order(results.settings.evaluate.columns):
        columns[name] = column(results, name, judge.network, judge.fingerprint, listener).figures
        history |= column_history(results, name)
    write_history(results.place("evaluate"), history)
    least, interval = floor(judge.network, results.characters, test)
    figures = {
        "columns": columns,
        "floor": least,
        "floor_interval": interval,
        "split": results.settings.evaluate.split,
        "judge": dict(judge.figures),
        "test_clips": len(test),
    }
    if listener is not None:
        figures |= listener.floors()
    figures = json.loads(json.dumps(figures))
    return Made(digest([json.dumps(figures, sort_keys=True)]), figures, _says(results, figures))


def _says(results: Results, figures: Mapping[str, Any]) -> str:
    """The key figures in a line."""
    columns: Mapping[str, Mapping[str, Any]] = figures["columns"]
    cells = ", ".join(f"({name}) {shown_rate(one['cer'], one['interval'])}" for name, one in columns.items())
    name, options = "d" if "d" in columns else list(columns)[-1], results.settings.evaluate
    chosen = columns[name]
    if chosen["cer_best"] is not None:
        cells += f", best of {options.candidates} {shown_rate(chosen['cer_best'], chosen['best_interval'])}"
    units = f"unit error rate of ({name}) {shown_rate(chosen['uer'], chosen['uer_interval'])}"
    where = "" if options.split == "test" else "on development clips: "
    least = shown_rate(figures["floor"], figures["floor_interval"])
    says = f"{where}character error rate {cells}; {least} of true speech; {units}"
    if figures.get("resynthesis_floor") is not None:
        cells = ", ".join(
            f"({name}) {shown_rate(one['resynthesis_cer'], one['resynthesis_interval'])}"
            for name, one in columns.items()
        )
        least = shown_rate(figures["resynthesis_floor"], figures["resynthesis_floor_interval"])
        says += f"; by the recogniser {cells}; {least} of true speech"
    return says
