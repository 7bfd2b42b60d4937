"""`spear-tts demo`: runs the recipe on a corpus and writes the result to a folder.

In: the demo's options. Out: a printed table and a folder with results.json, report.md, metrics.jsonl, plots, three WAVs
and the models. The folder appears whole.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spear_tts_pytorch.data.audio import load_audio, save_audio
from spear_tts_pytorch.data.corpora import open_corpus
from spear_tts_pytorch.recipe.backtranslation import speak
from spear_tts_pytorch.recipe.config import RecipeConfig
from spear_tts_pytorch.recipe.plots import write_plots
from spear_tts_pytorch.recipe.report import markdown, summarize, table
from spear_tts_pytorch.recipe.run import RecipeResult, run_recipe
from spear_tts_pytorch.recipe.steps import read_texts
from spear_tts_pytorch.tokenizers.mel_kmeans import MelKmeans
from spear_tts_pytorch.tokenizers.semantic import tokenize_clips
from spear_tts_pytorch.utils.files import whole_folder
from spear_tts_pytorch.utils.json_files import read_object
from spear_tts_pytorch.utils.metrics import character_error_rate

LABELLED = 60


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
    text_column: str | int | None = None,
    progress: bool = True,
    config: RecipeConfig | None = None,
) -> dict[str, Any]:
    """Runs the recipe, prints its table and writes the folder `output`.

    Args:
        corpus: None for speech made by espeak-ng, a folder in LJSpeech's layout, or "fsdd:FOLDER".
        labelled: utterances whose text may be used, 60 by default.
        seed: of everything random.
        output: the folder to write.
        columns: letters of the paper's table: a, b, c, d.
        quick: about a minute; the figures mean little.
        overwrite: replaces the folder `output`, once the new one is complete, if an earlier demo wrote it.
        speaker: whose digits are taken, for "fsdd:FOLDER".
        text_column: column of the text in a folder's metadata.csv, as in `open_corpus`.
        progress: shows bars, on terminals.
        config: sizes and steps; those of `RecipeConfig()` if None.

    Returns:
        The contents of results.json.

    Raises:
        FileExistsError: `output` exists and `overwrite` is False, or `output` is not a demo's folder.
        FileNotFoundError, ValueError, ImportError: see `open_corpus` and `run_recipe`.
    """
    start, output = time.perf_counter(), Path(output).resolve()
    _check_output(output, overwrite)
    _check_packages()
    labelled = LABELLED if labelled is None else labelled
    config = (config or RecipeConfig()).quick() if quick else config or RecipeConfig()
    is_made = corpus is None or corpus.startswith("fsdd:")  # such corpora have as many utterances as asked for
    unlabelled, test = config.unlabelled if is_made else None, config.test_utterances
    chosen = partial(open_corpus, corpus, speaker=speaker, text_column=text_column, seed=seed, progress=progress)
    speech = chosen(labelled=labelled, unlabelled=unlabelled, test=test)
    opened = {"corpus": time.perf_counter() - start}
    with whole_folder(output, replace=overwrite) as folder:
        pairs = folder / "pairs"
        result = run_recipe(speech, config, columns=columns, pairs_folder=pairs, seed=seed, progress=progress)
        result.seconds = opened | result.seconds
        sound = _write_sound(result, folder)
        _write_models_and_plots(result, folder)
        seconds = time.perf_counter() - start
        summary = summarize(result, corpus=speech.name, labelled=labelled, seed=seed, sound=sound, seconds=seconds)
        _write_summary(summary, folder)
        _check_output(output, overwrite)  # minutes have passed
    print(table(summary))
    print(f"written to {output}: report.md, results.json, metrics.jsonl, plots, audio/, model/")
    print(summary["summary"])
    return summary


def _check_output(output: Path, overwrite: bool) -> None:
    """Raises an error unless `output` may be written. Only an earlier demo's folder, or an empty one, is ever replaced."""
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


def _is_demo(folder: Path) -> bool:
    try:
        return "library_version" in read_object(folder / "results.json", "the results of a demo", "remove it")
    except (OSError, ValueError):
        return False


def _check_packages() -> None:
    """Raises ImportError for a missing package before minutes of work."""
    for name in ("sklearn", "jiwer", "matplotlib"):
        try:
            import_module(name)
        except ImportError as error:
            raise ImportError(f'the demo needs {name}: pip install "spear-tts-pytorch[demo]"') from error


def _write_sound(result: RecipeResult, folder: Path) -> dict[str, Any]:
    """Writes three WAVs said by the model, and measures what is lost on the way through sound.

    The model says all test texts. These ids, and the true ones, are resynthesised, written, read back, tokenised again and
    read by the evaluator.

    Returns:
        "examples" (file, text and the evaluator's reading), "cer_of_wavs_said" and "cer_of_wavs_true" in percent.
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
    heard: list[Tensor] = []
    original: list[Tensor] = []
    spread = sorted({0, len(texts) // 2, len(texts) - 1})
    with tempfile.TemporaryDirectory() as temporary:
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


def _through_a_wav(tokenizer: MelKmeans, ids: Tensor, path: Path) -> Tensor:
    """Ids `[n]` to sound in a file, and back to ids `[m]`; empty if there are none or the sound is too short or silent."""
    if not len(ids):
        return ids
    save_audio(path, tokenizer.resynthesize(ids), tokenizer.target_sample_hz)
    wav, sample_hz = load_audio(path)
    try:
        return tokenize_clips(tokenizer, [torch.as_tensor(wav)], sample_hz)[0]
    except ValueError:  # too short or silent
        return ids[:0]


def _read(result: RecipeResult, rows: list[Tensor]) -> list[str]:
    return read_texts(result.evaluator, result.model.text_tokenizer, rows)


def _write_models_and_plots(result: RecipeResult, folder: Path) -> None:
    """Writes the model, the backtranslator if there is one, the training records (metrics.jsonl) and the plots."""
    result.model.save_pretrained(folder / "model")
    if result.backtranslator is not None:
        result.backtranslator.model.save_pretrained(folder / "backtranslator")
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for stage, records in result.histories.items():
            file.writelines(json.dumps({"stage": stage, **record}) + "\n" for record in records)
    write_plots(result, folder)


def _write_summary(summary: dict[str, Any], folder: Path) -> None:
    (folder / "results.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(markdown(summary), encoding="utf-8")
