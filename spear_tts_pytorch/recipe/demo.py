"""`spear-tts demo`: runs the recipe on a corpus and writes what came of it to a folder.

In: the demo's options. Out: a printed table and a folder with results.json, report.md, metrics.jsonl, plots, three WAVs
and the models. The folder appears whole. Knows nothing of how the recipe works.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spear_tts_pytorch.data.audio import load_audio, save_audio
from spear_tts_pytorch.data.corpora import open_corpus
from spear_tts_pytorch.recipe.backtranslation import speak
from spear_tts_pytorch.recipe.evaluate import character_error_rate
from spear_tts_pytorch.recipe.run import COLUMNS, RecipeResult, run_recipe
from spear_tts_pytorch.recipe.steps import Column, RecipeConfig, read_texts
from spear_tts_pytorch.utils.plots import plot_alignment, plot_error_rates, plot_losses
from spear_tts_pytorch.version import __version__

LABELLED = 60
FEW_TESTS = 20
FLOOR_TOO_HIGH = 15.0  # percent: above it the evaluator's own errors hide those of the models


def run_demo(
    *,
    corpus: str | None = None,
    labelled: int | None = None,
    seed: int = 0,
    output: str | Path = "spear-tts-demo",
    columns: str = "ad",
    quick: bool = False,
    overwrite: bool = False,
    speaker: str | None = None,
    progress: bool = True,
    config: RecipeConfig | None = None,
) -> dict[str, Any]:
    """Runs the recipe, prints its table and writes the folder `output`.

    Args:
        corpus: None for speech made by espeak-ng, a folder in LJSpeech's layout, or "fsdd:FOLDER".
        labelled: utterances whose text may be used, 60 by default.
        columns: letters of the paper's table: a, b, c, d.
        quick: about a minute; figures mean little.
        overwrite: replaces the folder `output`, once the new one is complete.

    Returns:
        What results.json holds.

    Raises:
        FileExistsError: `output` exists, and `overwrite` is not set.
        FileNotFoundError, ValueError, ImportError: see `open_corpus` and `run_recipe`.
    """
    start = time.perf_counter()
    output = Path(output).resolve()
    _check_output(output, overwrite)
    _check_packages()
    labelled = LABELLED if labelled is None else labelled
    config = config or RecipeConfig()
    config = config.quick() if quick else config
    composed = corpus is None or corpus.startswith("fsdd:")  # as much of it as one likes
    speech = open_corpus(
        corpus,
        labelled=labelled,
        seed=seed,
        unlabelled=config.unlabelled if composed else None,
        speaker=speaker,
        test=config.test_utterances,
        progress=progress,
    )
    opened = time.perf_counter() - start
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as temporary:
        folder = Path(temporary) / "demo"
        result = run_recipe(
            speech, config, columns=columns, pairs_folder=folder / "pairs", seed=seed, progress=progress
        )
        result.seconds = {"corpus": opened, **result.seconds}
        sound = _write_sound(result, folder)
        _write_models_and_plots(result, folder)
        summary = _summary(result, speech.name, labelled, seed, sound, time.perf_counter() - start)
        (folder / "results.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        (folder / "report.md").write_text(_report(summary), encoding="utf-8")
        _check_output(output, overwrite)  # minutes have passed
        _swap(folder, output, Path(temporary) / "earlier")
    print(_table(summary))
    print(f"written to {output}: report.md, results.json, metrics.jsonl, plots, audio/, model/")
    print(summary["summary"])
    return summary


def _check_output(output: Path, overwrite: bool) -> None:
    """Only an earlier demo's folder, or an empty one, is ever replaced."""
    blocked = next((path for path in output.parents if path.exists() and not path.is_dir()), None)
    if blocked is not None:
        raise NotADirectoryError(f"{blocked} is a file, so {output} cannot be made: give another with --output")
    if not output.exists():
        return
    if not overwrite:
        raise FileExistsError(
            f"output folder {output} exists: give another with --output, or replace it with --overwrite"
        )
    if not output.is_dir() or (any(output.iterdir()) and not _is_demo(output)):
        raise FileExistsError(
            f"{output} is not a folder of an earlier demo and is not replaced: give another with --output"
        )


def _swap(new: Path, output: Path, earlier: Path) -> None:
    """`new` takes the place of `output`, which goes to `earlier`, or comes back if that fails."""
    if output.exists():
        output.rename(earlier)
    try:
        new.rename(output)
    except OSError:
        if earlier.exists():
            earlier.rename(output)
        raise


def _is_demo(folder: Path) -> bool:
    try:
        return "library_version" in json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def _check_packages() -> None:
    """Tells before minutes of work that a package is missing."""
    for name in ("sklearn", "jiwer", "matplotlib"):
        try:
            __import__(name)
        except ImportError as error:
            raise ImportError(f'the demo needs {name}: pip install "spear-tts-pytorch[demo]"') from error


# what the models say


def _write_sound(result: RecipeResult, folder: Path) -> dict[str, Any]:
    """Three WAVs said by the model, and what the evaluator reads in resynthesised speech.

    All test texts are said, resynthesised, written, read back and tokenised again; true ids likewise.
    """
    tokenizer, texts = result.model.wav2vec, result.test.texts
    said = speak(
        result.model,
        texts,
        backtranslator=result.backtranslator,
        candidates=result.config.candidates,
        temperature=result.config.temperature,
        generator=torch.Generator().manual_seed(0),
    )
    read = _read(result, said)
    examples: list[dict[str, str]] = []
    spread = sorted({0, len(texts) // 2, len(texts) - 1})
    with tempfile.TemporaryDirectory() as temporary:
        heard, original = [], []
        for index, text in enumerate(texts):
            path = Path(temporary) / f"{index}.wav"
            heard.append(_through_a_wav(tokenizer, said[index], path))
            if index in spread and path.exists():
                (folder / "audio").mkdir(parents=True, exist_ok=True)
                name = f"audio/{len(examples) + 1}.wav"
                shutil.copy(path, folder / name)
                examples.append({"file": name, "text": text, "read_back": read[index]})
            original.append(_through_a_wav(tokenizer, result.test.semantic[index], path))
    return {
        "examples": examples,
        "cer_of_wavs_said": character_error_rate(_read(result, heard), texts),
        "cer_of_wavs_true": character_error_rate(_read(result, original), texts),
    }


def _through_a_wav(tokenizer: Any, ids: Tensor, path: Path) -> Tensor:
    """Ids to sound in a file, and back to ids; empty where nothing was said or heard."""
    if not len(ids):
        return ids
    save_audio(path, tokenizer.resynthesize(ids), tokenizer.target_sample_hz)
    wav, sample_hz = load_audio(path)
    try:
        return tokenizer(torch.as_tensor(wav)[None], input_sample_hz=sample_hz)[0]
    except ValueError:  # too short or silent
        return ids[:0]


def _read(result: RecipeResult, rows: list[Tensor]) -> list[str]:
    return read_texts(result.evaluator, result.model.text_tokenizer, rows)


def _write_models_and_plots(result: RecipeResult, folder: Path) -> None:
    result.model.save_pretrained(folder / "model")
    if result.backtranslator is not None:
        result.backtranslator.model.save_pretrained(folder / "backtranslator")
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for stage, records in result.histories.items():
            file.writelines(json.dumps({"stage": stage, **record}) + "\n" for record in records)
    plot_losses(result.histories, folder / "losses.png")
    bars = {f"({name}) {COLUMNS[name]}": headline(column) for name, column in result.columns.items()}
    plot_error_rates({**bars, "floor (true ids)": result.floor}, folder / "error_rates.png")
    text = result.test.texts[0]
    weights = result.model.alignment([text], result.test.semantic[0][None], source_type="text", target_type="speech")
    # without the null key, the start token's row and the end-of-sequence key
    plot_alignment(weights[:, 0].mean(dim=(0, 1))[1:, 1:-1], list(text), folder / "alignment.png", title=f'"{text}"')


# what is written about them


def headline(column: Column) -> float:
    """The figure of the summary and the picture: the best of several samples where all columns have it, else greedy."""
    return column.cer if column.cer_best is None else column.cer_best


def _summary(
    result: RecipeResult, corpus: str, labelled: int, seed: int, sound: dict[str, Any], seconds: float
) -> dict[str, Any]:
    cells = " ".join(f"({name}) {headline(column):.1f} %" for name, column in result.columns.items())
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
    return json.loads(json.dumps(summary))  # just what a reader of results.json gets


def _rows(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The table's rows: what, CER of greedy decoding with its interval, CER of the best of several samples."""
    rows = []
    for name, column in summary["columns"].items():
        low, high = column["interval"]
        best = "" if column["cer_best"] is None else f"{column['cer_best']:.1f}"
        rows.append((f"({name}) {COLUMNS[name]}", f"{column['cer']:.1f} [{low:.1f}, {high:.1f}]", best))
    return [*rows, ("floor: evaluator on true ids", f"{summary['floor']:.1f}", "")]


def _table(summary: dict[str, Any]) -> str:
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


def _warning(summary: dict[str, Any]) -> str:
    return (
        f"The evaluator misreads {summary['floor']:.0f} % of the characters of true speech: too many to tell the columns "
        "apart. More speech, more steps or better tokens would be needed."
    )


def _report(summary: dict[str, Any]) -> str:
    candidates = summary["config"]["candidates"]
    lines = [
        f"# {summary['corpus']}, {summary['labelled']} labelled utterances",
        "",
        f"{summary['minutes']['labelled']:.1f} minutes of labelled speech, {summary['minutes']['unlabelled']:.0f} "
        f"unlabelled; {summary['test_utterances']} test texts that occur nowhere in training. Seed {summary['seed']}, "
        f"{summary['total_seconds']:.0f} s, spear-tts-pytorch {summary['library_version']}, torch "
        f"{summary['torch_version']}.",
        "",
        "Which characters there are is taken from all texts, the test's included; nothing else is.",
        "",
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
    sound = summary["sound"]
    lines += [
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
        "| stage | seconds |",
        "|---|---|",
        *(f"| {stage} | {spent:.0f} |" for stage, spent in summary["seconds"].items()),
        "",
    ]
    return "\n".join(lines)
