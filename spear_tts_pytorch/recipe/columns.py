"""Columns of the paper's table: the models that the voice itself does not need, and what a judge understands of each.

In: `Results` and a judge. Out: the record of a column, with its figures. What was trained or measured is kept in `columns/`
of the voice folder, and made again only if its own causes have changed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.recipe.evaluate import SemanticASR
from spear_tts_pytorch.recipe.measure import Listener, measure
from spear_tts_pytorch.recipe.records import HISTORY, RUN, Record, begin, clear, digest, reasons, write_history
from spear_tts_pytorch.recipe.results import LEAST_FOR_DEVELOPMENT, MODEL, RESYNTHESIS, Results
from spear_tts_pytorch.recipe.settings import COLUMNS
from spear_tts_pytorch.recipe.stages import Trained, speech_rate
from spear_tts_pytorch.utils.distributed import in_first_process
from spear_tts_pytorch.utils.files import digest_of_file
from spear_tts_pytorch.utils.json_files import read_object

FOLDER, MEASURED = "columns", "measured"
NOT_OF_A_COLUMN = (
    "columns",
    "scratch_steps",
    "judge",
    "judge_steps",
    "judge_patience",
    "judge_width",
)  # settings of [evaluate]
OF_A_RECOGNISER = ("recogniser", "language")  # which change nothing if there is none


def in_order(names: Iterable[str]) -> list[str]:
    """Letters of columns in the order of the table."""
    return sorted(names, key=list(COLUMNS).index)


def known_ids(results: Results) -> list[str]:
    """Ids of all clips with a text but those that a column may be measured on."""
    kept = {*results.clips.test, *results.development_ids}
    return [id_ for id_ in results.clips.every if id_ not in kept and results.clips.text(id_)]


def measured_ids(results: Results) -> list[str]:
    """Ids of the clips that columns are measured on: the test's, or those held out to choose settings by.

    Raises:
        ValueError: there are none.
    """
    found = results.clips.test if results.settings.evaluate.split == "test" else results.development_ids
    if found:
        return list(found)
    if results.settings.evaluate.split == "test":
        raise ValueError("data.test names no clips: write ids of clips with a text into a file, one a line")
    raise ValueError(
        f"evaluate.split is 'development', but no clips are held out: that needs {LEAST_FOR_DEVELOPMENT} labelled clips, "
        f"here are {len(results.clips.labelled)}, and backtranslate.development above 0; label more, or measure on the test "
        "by `--split test`"
    )


def keep_model(model: TextToSemantic, folder: Path) -> str:
    """Saves a model and returns the fingerprint of its weights. Collective."""
    in_first_process(lambda: model.save_pretrained(folder))
    return digest_of_file(folder / "model.safetensors")


def figures_of(trained: Trained) -> dict[str, Any]:
    """The figures of a training's last validation."""
    return {name: round(value, 5) for name, value in trained.valid.items()}


def place_of(results: Results, name: str) -> Path:
    """The folder of a column."""
    return results.folder / FOLDER / name


def column(
    results: Results, name: str, judge: SemanticASR, fingerprint: str, listener: Listener | None = None
) -> Record:
    """What the judge understands of a column's model, which is trained first if it must be. Collective.

    Args:
        results: of the voice, whose stages 1 to 5 are done as far as the column needs them.
        name: letter of the column.
        judge: reads what the model says.
        fingerprint: of the judge.
        listener: hears what it says, too, through the network from ids to sound.

    Returns:
        The record, whose figures are those of a `Column`.
    """
    model, folder = column_model(results, name), place_of(results, name) / MEASURED
    weights = results.folder / MODEL if name == "d" else place_of(results, name) / MODEL
    options = results.settings.section("evaluate")
    left_out = {*NOT_OF_A_COLUMN, *(() if options["recogniser"] else OF_A_RECOGNISER)}
    causes = {
        "model": digest_of_file(weights / "model.safetensors"),
        "judge": fingerprint,
        "backtranslate": results.output("backtranslate"),
        "evaluate": {key: value for key, value in options.items() if key not in left_out},
        "seed": results.settings.training.seed,
        "clips to measure on": digest(results.keys(measured_ids(results), texts=True)),
    }
    if listener is not None:
        causes[RESYNTHESIS] = results.output(RESYNTHESIS)
    there = Record.load(folder)
    if there is not None and not reasons(folder, causes):
        return there
    in_first_process(partial(begin, folder, causes))
    start = time.perf_counter()
    found = measure(model, judge, results.reader, results.rows(measured_ids(results)), results.settings, listener)
    figures = json.loads(json.dumps(asdict(found)))
    output, seconds = digest([json.dumps(figures)]), round(time.perf_counter() - start, 1)
    made = Record(causes, True, output, figures, f"{found}", seconds)
    in_first_process(partial(made.save, folder))
    return made


def column_history(results: Results, name: str) -> dict[str, list[dict[str, Any]]]:
    """The records of a column's training, by its name; none for (d), whose training is a stage of its own."""
    path = place_of(results, name) / HISTORY
    return read_object(path, "the records of a column", f"remove {path.parent}") if path.is_file() else {}


def column_model(results: Results, name: str) -> TextToSemantic:
    """The model of a column, which is trained if it must be. Collective."""
    if name == "d":
        return results.model
    folder, causes = place_of(results, name), _causes(results, name)
    if reasons(folder, causes):
        in_first_process(partial(begin, folder, causes))
        start = time.perf_counter()
        done = _trained(results, name, folder / RUN)
        output = keep_model(done[-1].model, folder / MODEL)
        write_history(folder, {f"({name})": done[0].history})
        seconds = round(time.perf_counter() - start, 1)
        made = Record(causes, True, output, figures_of(done[-1]), COLUMNS[name], seconds)
        in_first_process(partial(made.save, folder))
        in_first_process(partial(clear, folder / RUN))  # checkpoints
    with results.made_by("evaluate"):
        return TextToSemantic.from_pretrained(folder / MODEL)


def _causes(results: Results, name: str) -> dict[str, Any]:
    """What the model of a column depends on."""
    section, train = results.settings.section, results.settings.train
    causes = {
        "units": results.output("units"),
        "model": section("model"),
        "training": results.training_options(),
        "development": results.settings.backtranslate.development,
        "alphabet": digest(results.characters.symbols),
        "labelled clips": digest(results.keys(results.clips.labelled, texts=True)),
    }
    if name in "ab":
        causes |= {"lr": train.lr, "steps": results.settings.evaluate.scratch_steps}
    if name in "cA":
        causes["train"] = section("train")
    if name == "b":
        causes["pretrain"] = results.output("pretrain")
    if name == "c":
        causes |= {
            "label": results.output("label"),
            "backtranslate": results.output("backtranslate"),
            "keep": results.settings.label.keep,
        }
    if name == "A":
        del causes["labelled clips"]
        causes["clips"] = digest(results.keys(known_ids(results), texts=True))
    return causes


def _trained(results: Results, name: str, folder: Path) -> list[Trained]:
    """Trains the model of a column: one or two trainings."""
    stages, real = results.stages, results.labelled.pairs()
    valid = results.development.pairs() or real
    if name == "A":  # as long as (d), on true texts where (d) has labels
        rows = results.rows(known_ids(results))
        return replace(stages, rate=speech_rate(rows)).speak(None, rows.pairs(), [], valid, folder)
    start = results.pretrained if name == "b" else None
    labels = results.labels() if name == "c" else None
    return stages.speak(start, real, labels, valid, folder)
