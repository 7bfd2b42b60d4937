"""The report of a voice: figures of all stages as data (results.json) and as Markdown (report.md), pictures and sounds.

In: `Results`. Out: files in the voice folder, of as many stages as are done.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from spear_tts_pytorch.recipe.judge import in_words
from spear_tts_pytorch.recipe.measure import shown_rate
from spear_tts_pytorch.recipe.page import page
from spear_tts_pytorch.recipe.records import HISTORY
from spear_tts_pytorch.recipe.results import EVERY_STAGE, RESYNTHESIS, STAGES, Results
from spear_tts_pytorch.recipe.settings import COLUMNS
from spear_tts_pytorch.recipe.sounds import label_sounds, said_sounds, unit_sounds
from spear_tts_pytorch.recipe.survey import survey
from spear_tts_pytorch.utils.files import write_whole
from spear_tts_pytorch.utils.json_files import read_object
from spear_tts_pytorch.utils.plots import plot_alignment, plot_error_rates, plot_histograms, plot_losses
from spear_tts_pytorch.version import __version__

RESULTS, REPORT, PAGE, METRICS = "results.json", "report.md", "report.html", "metrics.jsonl"
FEW_TESTS = 20
ON_DEVELOPMENT = "Measured on development clips, by which settings are chosen; not on the test."
FLOOR_TOO_HIGH = 15.0  # percent: above it the judge's own errors hide those of the models
POOR_LABELS = 40.0  # percent
RISE = 1.05, 0.02  # of a validation loss over its lowest: as a factor, and at least so many nats
LEAST_VALIDATIONS = 3
HEARD_FLOORS = (
    "resynthesis_floor",
    "resynthesis_floor_interval",
    "recording_floor",
    "recording_floor_interval",
    "mcd_floor",
)
DROPOUT = 0.2  # that is enough
STEPS = {
    "pretraining": "pretrain.steps",
    "backtranslator": "backtranslate.steps",
    "text to speech": "train.steps",
    "text to speech, real pairs": "train.finetune_steps",
}  # the setting of each training


def write_report(results: Results, stage: str | None = None) -> dict[str, Any]:
    """Writes the report of the stages that are done. Returns the contents of results.json.

    Args:
        results: of the voice.
        stage: the stage that has just been made. Sounds of other stages are kept as they are; None makes all anew.
    """
    done = [one for one in results.plan if _is_done(results, one)]
    old = _old(results.folder / RESULTS) if stage else {}
    examples: list[dict[str, Any]] = old.get("examples", [])
    sounds: dict[str, list[dict[str, Any]]] = {"units": [], "labels": [], **old.get("sounds", {})}
    if stage in (None, "units", RESYNTHESIS) and "units" in done:
        sounds["units"] = unit_sounds(results)
    if stage in (None, "label") and "label" in done:
        sounds["labels"] = label_sounds(results)
    if stage in (None, "train") and "train" in done:
        examples = said_sounds(results)
    history = histories(results)
    summary = summarize(results, history, examples, sounds)
    write_whole(results.folder / RESULTS, (json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode())
    write_whole(results.folder / REPORT, markdown(summary).encode())
    lines = [json.dumps({"stage": name, **record}) for name, records in history.items() for record in records]
    write_whole(results.folder / METRICS, "".join(f"{line}\n" for line in lines).encode())
    if importlib.util.find_spec("matplotlib"):
        _write_plots(results, summary, history)
    write_whole(
        results.folder / PAGE,
        page(summary, error_heads(summary), error_rows(summary), results.folder, heard_rows(summary)).encode(),
    )
    return summary


def _old(path: Path) -> dict[str, Any]:
    """The contents of an earlier results.json; nothing if there is none that can be read."""
    try:
        return read_object(path, "the figures of a voice", f"remove {path}") if path.is_file() else {}
    except ValueError:
        return {}


def summarize(
    results: Results,
    history: Mapping[str, list[dict[str, Any]]],
    examples: list[dict[str, Any]],
    sounds: Mapping[str, list[dict[str, Any]]],
) -> dict[str, Any]:
    """The contents of results.json.

    Args:
        results: of the voice.
        history: the training records of all stages.
        examples: files and readings of test texts that the voice says.
        sounds: files and texts of clips, for "units" and "labels".
    """
    records = {stage: record for stage in results.plan if (record := results.record(stage)) is not None and record.done}
    data = survey(results.clips)
    evaluated: Mapping[str, Any] = records["evaluate"].figures if "evaluate" in records else {}
    seconds = sum(record.seconds for record in records.values())
    summary: dict[str, Any] = {
        "voice": results.folder.name,
        "library_version": __version__,
        "torch_version": torch.__version__,
        "seed": results.settings.training.seed,
        "data": {
            "clips": data.clips,
            "minutes": round(data.minutes, 2),
            "labelled": data.labelled,
            "labelled_minutes": round(data.labelled_minutes, 2),
            "test": data.test,
            "unpaired": data.unpaired,
            "notes": data.odd,
        },
        "stages": {
            stage: {"says": record.says, "seconds": record.seconds, **record.figures}
            for stage, record in records.items()
        },
        "columns": evaluated.get("columns", {}),
        "floor": evaluated.get("floor"),
        "floor_interval": evaluated.get("floor_interval"),
        "split": evaluated.get("split", "test"),
        "judge": evaluated.get("judge"),
        **{name: evaluated[name] for name in HEARD_FLOORS if name in evaluated},
        "candidates": results.settings.evaluate.candidates,
        "total_seconds": round(seconds, 1),
        "examples": examples,
        "sounds": dict(sounds),
        "settings": {name: results.settings.section(name) for name in results.settings.sections()},
    }
    summary["rising"] = rising(history)
    summary["warnings"] = list(_warnings(summary))
    summary["summary"] = _line(summary)
    return json.loads(json.dumps(summary))  # equal to the file as read back: lists in place of tuples


def table(summary: Mapping[str, Any]) -> str:
    """The table that a run prints at its end."""
    data = summary["data"]
    lines = [
        f"{summary['voice']}: {data['labelled']} labelled clips ({data['labelled_minutes']:.1f} min) of {data['minutes']:.0f} "
        f"min, {data['test']} test texts"
    ]
    if summary["columns"]:
        rows = [["error rate, % [95 %]", *error_heads(summary)], *error_rows(summary)]
        if heard := heard_rows(summary):
            rows += [
                ["resynthesised, % [95 %]", "CER, greedy", f"CER, best of {summary['candidates']}", "MCD, dB"],
                *heard,
            ]
        lines += [f"{name:<34}" + "".join(f"{cell:>22}" for cell in cells) for name, *cells in rows]
        lines += [ON_DEVELOPMENT] if summary["split"] == "development" else []
    seconds = ", ".join(f"{stage} {one['seconds']:.0f}" for stage, one in summary["stages"].items())
    return "\n".join([*lines, f"seconds: {seconds}", *(f"warning: {one}" for one in summary["warnings"])])


def markdown(summary: Mapping[str, Any]) -> str:
    """The contents of report.md."""
    data = summary["data"]
    lines = [
        f"# {summary['voice']}",
        "",
        f"{data['clips']} clips, {data['minutes']:.1f} minutes; {data['labelled']} with a text to learn from "
        f"({data['labelled_minutes']:.1f} minutes), {data['test']} for testing. Seed {summary['seed']}, "
        f"{summary['total_seconds']:.0f} s, spear-tts-pytorch {summary['library_version']}, torch "
        f"{summary['torch_version']}.",
        "",
        *(f"- {note}" for note in data["notes"]),
        *(f"- **{warning}**" for warning in summary["warnings"]),
        "",
        "| stage | result | seconds |",
        "|---|---|---|",
        *(f"| {stage} | {_cell(one['says'])} | {one['seconds']:.0f} |" for stage, one in summary["stages"].items()),
        "",
    ]
    return "\n".join([*lines, *_error_rates(summary), *_pictures(summary), *_examples(summary)])


def histories(results: Results) -> dict[str, list[dict[str, Any]]]:
    """The training records of all stages, by the name of the training."""
    found: dict[str, list[dict[str, Any]]] = {}
    for stage in results.plan:
        path = results.place(stage) / HISTORY
        if path.is_file():
            found.update(read_object(path, "the records of a stage", f"remove {path.parent}"))
    return found


def rising(history: Mapping[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The trainings whose validation loss ended clearly above its lowest, of the last round of each kind.

    Args:
        history: the training records by the name of the training.

    Returns:
        By the setting of the training's length: its `name`, the `lowest` loss and its `step`, and the `last` loss.
    """
    found: dict[str, dict[str, Any]] = {}
    factor, nats = RISE
    for name, records in history.items():
        setting = STEPS.get(name.partition(", round")[0])
        losses = [(one["valid_loss"], one["step"]) for one in records if one.get("valid_loss") is not None]
        if setting is None or not losses:
            continue
        (lowest, step), (last, _) = min(losses), losses[-1]
        found.pop(setting, None)
        if len(losses) >= LEAST_VALIDATIONS and last > max(factor * lowest, lowest + nats):
            found[setting] = {"name": name, "lowest": lowest, "step": step, "last": last}
    return found


def _is_done(results: Results, stage: str) -> bool:
    record = results.record(stage)
    return record is not None and record.done


def _line(summary: Mapping[str, Any]) -> str:
    cells = [f"({name}) {one['cer']:.1f} %" for name, one in summary["columns"].items()]
    cells += [f"floor {summary['floor']:.1f} % CER"] if summary["floor"] is not None else []
    return " ".join([*cells, f"{summary['data']['labelled']} labelled, {summary['total_seconds']:.0f} s"])


def error_heads(summary: Mapping[str, Any]) -> list[str]:
    """The names of the error rates in `error_rows`."""
    return ["CER, greedy", f"CER, best of {summary['candidates']}", "units, greedy"]


def error_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """The table's rows: a name, and an error rate with its interval for each of `error_heads`, "" where there is none."""
    if not summary["columns"]:
        return []
    rows = [
        [
            f"({name}) {COLUMNS[name]}",
            _rate(column["cer"], column["interval"]),
            _rate(column["cer_best"], column.get("best_interval")),
            _rate(column.get("uer"), column.get("uer_interval")),
        ]
        for name, column in summary["columns"].items()
    ]
    return [*rows, ["floor: judge on true ids", _rate(summary["floor"], summary.get("floor_interval")), "", ""]]


def _rate(percent: float | None, interval: Sequence[float] | None) -> str:
    return "" if percent is None else shown_rate(percent, interval).replace(" %", "")


def heard_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """Rows of what is heard in resynthesised speech: name, CER of the recogniser (greedy, best of several), distortion."""
    if "mcd_floor" not in summary:
        return []
    rows = [
        [
            f"({name}) {COLUMNS[name]}",
            _rate(one.get("resynthesis_cer"), one.get("resynthesis_interval")),
            _rate(one.get("resynthesis_cer_best"), one.get("resynthesis_interval_best")),
            " / ".join(f"{one[kind]:.1f}" for kind in ("mcd", "mcd_best") if one.get(kind) is not None),
        ]
        for name, one in summary["columns"].items()
    ]
    least = "" if summary["mcd_floor"] is None else f"{summary['mcd_floor']:.1f}"
    ids, recordings = (
        _rate(summary[f"{of}_floor"], summary[f"{of}_floor_interval"]) for of in ("resynthesis", "recording")
    )
    return [*rows, ["floor: true ids", ids, "", least], ["floor: recordings", recordings, "", ""]]


def _warnings(summary: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong, with cause and remedy."""
    stages, floor, tests = summary["stages"], summary["floor"], summary["data"]["test"]
    labels = stages.get("label", {}).get("cer", stages.get("backtranslate", {}).get("cer"))
    if labels is not None and labels > POOR_LABELS:
        further = "" if summary["data"]["unpaired"] else ", or give --unpaired-text"
        yield f"{labels:.0f} % of the characters of labels are wrong: label more minutes{further}"
    dropout = summary["settings"]["model"]["dropout"]
    more = f", more dropout (`--set model.dropout={DROPOUT}`)" if dropout < DROPOUT else ""
    for setting, one in summary["rising"].items():
        yield (
            f"{one['name']}: the validation loss rose from {one['lowest']:.2f} at step {one['step']} to {one['last']:.2f}: it "
            f"learned its clips by heart; take fewer steps (`--set {setting}={one['step']}`){more}, or give "
            "more audio and text"
        )
    if floor is not None and floor > FLOOR_TOO_HIGH:
        judge: Mapping[str, Any] = summary["judge"] or {"converged": True}
        steps = f"more steps (`--set evaluate.judge_steps={2 * judge['steps']}`), " if not judge["converged"] else ""
        yield (
            f"the judge misreads {floor:.0f} % of the characters of true speech: too many to tell columns apart; {steps}more "
            "speech or better units are needed"
        )
    if floor is not None and tests < FEW_TESTS:
        yield f"only {tests} test texts: the figures mean little"
    for name, column in summary["columns"].items():
        if not 0.7 < column["length_ratio"] < 1.4:
            yield (
                f"({name}) says {column['length_ratio']:.2f} times as many ids as the true speech has: more training steps or "
                "better labels are needed"
            )


def warnings_until(summary: Mapping[str, Any], stage: str) -> list[str]:
    """The warnings of the stages up to this one. Those of later stages are of what will be made anew."""
    if stage == STAGES[-1]:
        return summary["warnings"]
    done = EVERY_STAGE[: EVERY_STAGE.index(stage) + 1]
    stages = {name: one for name, one in summary["stages"].items() if name in done}
    rises = {setting: one for setting, one in summary["rising"].items() if setting.partition(".")[0] in done}
    return list(_warnings({**summary, "stages": stages, "rising": rises, "columns": {}, "floor": None}))


def _error_rates(summary: Mapping[str, Any]) -> list[str]:
    if not summary["columns"]:
        return []
    candidates = summary["candidates"]
    return [
        "Character error rate (CER) of generated speech tokens, percent, read by an independent judge; in brackets 95 % "
        f"bootstrap intervals over texts. Best of {candidates}: the backtranslator chooses among {candidates} samples. Units: "
        "edit distance to the ids of the true speech of the same texts, for each of these ids.",
        "",
        *([f"The judge: {in_words(summary['judge'])}.", ""] if summary["judge"] else []),
        *([ON_DEVELOPMENT, ""] if summary["split"] == "development" else []),
        f"| {' | '.join(['column', *error_heads(summary)])} |",
        "|---" * (1 + len(error_heads(summary))) + "|",
        *(f"| {' | '.join(row)} |" for row in error_rows(summary)),
        "",
        *_heard(summary),
    ]


def _heard(summary: Mapping[str, Any]) -> list[str]:
    rows = heard_rows(summary)
    if not rows:
        return []
    judge = summary["settings"]["evaluate"]["recogniser"]
    read = f"Character error rate, percent, as {judge} reads spectra that are made of the ids. " if judge else ""
    best = f"best of {summary['candidates']}"
    return [
        f"{read}MCD: mel-cepstral distortion of these spectra to the recordings, dB, greedy / {best}.",
        "",
        f"| resynthesised | greedy | {best} | MCD |",
        "|---|---|---|---|",
        *(f"| {name} | {greedy} | {chosen} | {mcd} |" for name, greedy, chosen, mcd in rows),
        "",
    ]


def _pictures(summary: Mapping[str, Any]) -> list[str]:
    names = ["losses"] + ["error_rates"] * bool(summary["columns"]) + ["alignment"] * ("train" in summary["stages"])
    return [*(f"![{name.replace('_', ' ')}]({name}.png)" for name in names if summary["stages"]), ""]


def _examples(summary: Mapping[str, Any]) -> list[str]:
    if not summary["examples"]:
        return []
    rows = [f"| {_player(one)} | {_cell(one['text'])} | {_cell(one['read_back'])} |" for one in summary["examples"]]
    return ["| said | text | read back |", "|---|---|---|", *rows, ""]


def _player(example: Mapping[str, Any]) -> str:
    return f"[{example['file']}]({example['file']})" if example["file"] else ""


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _write_plots(results: Results, summary: Mapping[str, Any], history: dict[str, list[dict[str, Any]]]) -> None:
    """Writes losses.png, error_rates.png, alignment.png and histograms.png, as far as the stages are done."""
    folder: Path = results.folder
    columns = {"seconds of clips": [one.seconds for one in results.clips.every.values() if one.sample_hz]}
    if "label" in summary["stages"] and results.pairs is not None:
        columns["confidence of labels"] = [
            math.exp(score) for score in results.pairs.column("score") if score is not None
        ]
    plot_histograms(columns, folder / "histograms.png", title=results.folder.name)
    if history:
        plot_losses(history, folder / "losses.png")
    if summary["columns"]:
        bars = {
            f"({name}) {COLUMNS[name]}": one["cer"] if one["cer_best"] is None else one["cer_best"]
            for name, one in summary["columns"].items()
        }
        plot_error_rates({**bars, "floor (true ids)": summary["floor"]}, folder / "error_rates.png")
    if "train" in summary["stages"]:
        rows = results.test if results.test.ids else results.labelled
        text = rows.texts[0]
        weights = results.model.alignment([text], rows.semantic[0][None], source_type="text", target_type="speech")
        # mean over layers and heads, without the null key, the start token's row and the end-of-sequence key
        plot_alignment(
            weights[:, 0].mean(dim=(0, 1))[1:, 1:-1], list(text), folder / "alignment.png", title=f'"{text}"'
        )
