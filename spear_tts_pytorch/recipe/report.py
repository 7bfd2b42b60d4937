"""The demo's result as data (results.json), as a printed table and as Markdown (report.md).

In: a `RecipeResult` and what the demo measured of its sound. Out: a summary of JSON types, from which both texts are made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from spear_tts_pytorch.recipe.run import COLUMNS, RecipeResult
from spear_tts_pytorch.version import __version__

FEW_TESTS = 20
FLOOR_TOO_HIGH = 15.0  # percent: above it the evaluator's own errors hide those of the models


def summarize(
    result: RecipeResult, *, corpus: str, labelled: int, seed: int, sound: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """The contents of results.json.

    Args:
        corpus: its name.
        labelled: number of labelled utterances.
        sound: the examples, and error rates after a way through sound files.
        seconds: of the whole demo.
    """
    cells = " ".join(f"({name}) {column.headline:.1f} %" for name, column in result.columns.items())
    summary = {
        "summary": f"{cells} floor {result.floor:.1f} % CER, {labelled} labelled, {seconds:.0f} s",
        "corpus": corpus,
        "labelled": labelled,
        "seed": seed,
        "library_version": __version__,
        "torch_version": torch.__version__,
        "columns": {name: asdict(column) for name, column in result.columns.items()},
        "floor": result.floor,
        "floor_too_high": result.floor > FLOOR_TOO_HIGH,
        "pseudo_label_cer": result.label_cer,
        "minutes": result.minutes,
        "test_utterances": len(result.test.texts),
        "seconds": {stage: round(spent, 1) for stage, spent in result.seconds.items()},
        "total_seconds": round(seconds, 1),
        "sound": sound,
        "config": asdict(result.config),
    }
    return json.loads(json.dumps(summary))  # equal to the file as read back: lists in place of tuples


def table(summary: dict[str, Any]) -> str:
    """The table that the demo prints."""
    spent, amounts = summary["minutes"], summary["config"]["candidates"]
    lines = [
        f"{summary['corpus']}: {summary['labelled']} labelled utterances ({spent['labelled']:.1f} min), "
        f"{spent['unlabelled']:.0f} min unlabelled, {summary['test_utterances']} test texts",
        f"{'character error rate, %':<34}{'greedy [95 %]':>22}{f'best of {amounts}':>12}",
    ]
    lines += [f"{name:<34}{greedy:>22}{best:>12}" for name, greedy, best in _rows(summary)]
    if summary["pseudo_label_cer"] is not None:
        lines.append(f"{'pseudo-labels':<34}{summary['pseudo_label_cer']:>22.1f}")
    sound = summary["sound"]
    lines.append(f"{'as sound, written and read again':<34}{sound['cer_of_wavs_said']:>22.1f}")
    lines.append(f"{'true ids as sound, likewise':<34}{sound['cer_of_wavs_true']:>22.1f}")
    lines.append("seconds: " + ", ".join(f"{stage} {spent:.0f}" for stage, spent in summary["seconds"].items()))
    if summary["test_utterances"] < FEW_TESTS:
        lines.append(f"Only {summary['test_utterances']} test texts: the figures mean little.")
    if summary["floor_too_high"]:
        lines.append(_warning(summary))
    return "\n".join(lines)


def markdown(summary: dict[str, Any]) -> str:
    """The contents of report.md."""
    return "\n".join([*_opening(summary), *_error_rates(summary), *_sound(summary), *_seconds(summary)])


def _rows(summary: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The table's rows: name, CER of greedy decoding with its interval, CER of the best of several samples."""
    for name, column in summary["columns"].items():
        low, high = column["interval"]
        best = "" if column["cer_best"] is None else f"{column['cer_best']:.1f}"
        yield f"({name}) {COLUMNS[name]}", f"{column['cer']:.1f} [{low:.1f}, {high:.1f}]", best
    yield "floor: evaluator on true ids", f"{summary['floor']:.1f}", ""


def _warning(summary: dict[str, Any]) -> str:
    return (
        f"The evaluator misreads {summary['floor']:.0f} % of the characters of true speech: too many to tell the columns "
        "apart. More speech, more steps or better tokens would be needed."
    )


def _opening(summary: dict[str, Any]) -> list[str]:
    return [
        f"# {summary['corpus']}, {summary['labelled']} labelled utterances",
        "",
        f"{summary['minutes']['labelled']:.1f} minutes of labelled speech, {summary['minutes']['unlabelled']:.0f} "
        f"unlabelled; {summary['test_utterances']} test texts that occur nowhere in training. Seed {summary['seed']}, "
        f"{summary['total_seconds']:.0f} s, spear-tts-pytorch {summary['library_version']}, torch "
        f"{summary['torch_version']}.",
        "",
        "The alphabet is taken from all texts, the test's included; nothing else is.",
        "",
    ]


def _error_rates(summary: dict[str, Any]) -> list[str]:
    candidates = summary["config"]["candidates"]
    lines = [
        "Character error rate of generated speech tokens, percent, read by an independent evaluator; in brackets 95 % "
        f"bootstrap intervals over test texts. Best of {candidates}: the backtranslator chooses among {candidates} samples.",
        "",
        f"| column | greedy | best of {candidates} |",
        "|---|---|---|",
        *(f"| {name} | {greedy} | {best} |" for name, greedy, best in _rows(summary)),
        "",
    ]
    if summary["floor_too_high"]:
        lines += [f"**{_warning(summary)}**", ""]
    if summary["pseudo_label_cer"] is not None:
        lines += [f"Pseudo-labels: {summary['pseudo_label_cer']:.1f} % character errors.", ""]
    return lines


def _sound(summary: dict[str, Any]) -> list[str]:
    sound = summary["sound"]
    return [
        f"Resynthesised to WAV, tokenised again and read: {sound['cer_of_wavs_said']:.1f} % for the last column's model, "
        f"{sound['cer_of_wavs_true']:.1f} % for true ids.",
        "",
        "![error rates](error_rates.png)",
        "![losses](losses.png)",
        "![alignment](alignment.png)",
        "",
        "| said | text | read back |",
        "|---|---|---|",
        *(f"| [{e['file']}]({e['file']}) | {e['text']} | {e['read_back']} |" for e in sound["examples"]),
        "",
    ]


def _seconds(summary: dict[str, Any]) -> list[str]:
    rows = [f"| {stage} | {spent:.0f} |" for stage, spent in summary["seconds"].items()]
    return ["| stage | seconds |", "|---|---|", *rows, ""]
