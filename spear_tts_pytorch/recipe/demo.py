"""`spear-tts demo`: a voice of a small corpus that is made or composed here, or of a folder.

In: the demo's options. Out: a voice folder, made by `Voice.new` and `Voice.run`, and a printed table.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from spear_tts_pytorch.data.corpora import open_corpus, write_corpus
from spear_tts_pytorch.recipe.report import RESULTS, table
from spear_tts_pytorch.recipe.results import Progress
from spear_tts_pytorch.recipe.settings import Settings
from spear_tts_pytorch.recipe.voice import SETTINGS, Voice
from spear_tts_pytorch.utils.files import whole_folder
from spear_tts_pytorch.utils.json_files import read_object

LABELLED, TEST, QUICK_UNLABELLED = 60, 100, 600
CORPUS = "corpus"
DEMO = {"label.most": 2000}
JUDGE_STEPS = 300  # are enough for speech of few words
SIMPLE = ("pretrain.steps", "train.steps", "evaluate.judge_width")  # as for little data: such speech has few words


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
    changes: dict[str, Any] | None = None,
    progress: Progress = True,
) -> dict[str, Any]:
    """Makes a voice, prints its table and writes its report.

    Args:
        corpus: None for speech made by espeak-ng, "fsdd:FOLDER" for connected digits, or the folder of a corpus.
        labelled: clips whose text may be used, 60 by default.
        seed: of everything random.
        output: the voice folder. After an interruption `spear-tts run` goes on with it.
        columns: letters of the paper's table: a, b, c, d; and A, trained on all texts.
        quick: about a minute; the figures mean little.
        overwrite: the new voice takes the place of the one in `output`.
        speaker: takes the clips of this speaker.
        text_column: column of the text in a folder's table, by name or by number from 1.
        changes: settings by "section.setting".
        progress: as of `Voice`.

    Returns:
        The contents of results.json.

    Raises:
        FileExistsError: `output` exists and `overwrite` is False, or `output` is not a voice.
        FileNotFoundError, ValueError, ImportError: as `open_corpus` and `Voice`.
    """
    output = Path(output).resolve()
    own = DEMO if quick or is_folder(corpus) else DEMO | _simple()
    asked: dict[str, Any] = {"training.seed": seed, "evaluate.columns": columns, **own, **(changes or {})}
    if is_folder(corpus):
        given = {"data.text_column": text_column, "data.speaker": speaker}
        asked |= {name: str(value) for name, value in given.items() if value is not None}
    Settings().replaced(asked)  # wrong values are named before any work
    _check_output(output, overwrite)
    _check_packages()
    made: dict[str, Any] = {"labelled": LABELLED if labelled is None else labelled}
    with whole_folder(output, replace=overwrite) as place:
        if not is_folder(corpus):
            unlabelled, made["seed"] = QUICK_UNLABELLED if quick else None, seed
            made |= {"unlabelled": unlabelled, "test": TEST, "speaker": speaker, "text_column": text_column}
            write_corpus(open_corpus(corpus, progress=progress is True, **made), place / CORPUS)
            lists = {"data.labelled": f"{CORPUS}/labelled.txt", "data.test": f"{CORPUS}/test.txt"}
            corpus, made, asked = str(place / CORPUS), {}, asked | lists
        Voice.new(place, corpus or "", changes=asked, quick=quick, progress=progress, **made)
    voice = Voice(output, progress=progress)
    summary = read_object(voice.run().folder / RESULTS, "the figures of a voice", f"run `spear-tts run {output}`")
    print(table(summary))
    print(f"written to {output}: report.html, report.md, results.json, metrics.jsonl, plots, audio/, model/")
    print(summary["summary"])
    return summary


def is_folder(corpus: str | None) -> bool:
    """Whether the demo's corpus is a folder of recordings; else it is made or composed here."""
    return bool(corpus) and not str(corpus).startswith("fsdd:")


def _simple() -> dict[str, Any]:
    """The settings for speech of few words, whatever the hours."""
    names = [(name, *name.split(".")) for name in SIMPLE]
    defaults = {name: Settings().section(section)[key] for name, section, key in names}
    return defaults | {"evaluate.judge_steps": JUDGE_STEPS}


def _check_output(output: Path, overwrite: bool) -> None:
    """Raises an error unless `output` may be written. Only a voice, or an empty folder, is ever replaced."""
    blocked = next((path for path in output.parents if path.exists() and not path.is_dir()), None)
    if blocked is not None:
        raise NotADirectoryError(f"{blocked} is a file, so {output} cannot be made: give another with --output")
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / SETTINGS).is_file() and not (output / CORPUS / "labelled.txt").is_file():
        raise FileExistsError(
            f"{output} is not a folder of an earlier demo, which --overwrite could replace: give another with --output"
        )
    if not overwrite:
        raise FileExistsError(
            f"output folder {output} exists: go on with it by `spear-tts run {output}`, give another with --output, or "
            "replace it with --overwrite"
        )


def _check_packages() -> None:
    """Raises ImportError for a missing package before minutes of work."""
    for name in ("sklearn", "jiwer", "matplotlib"):
        try:
            import_module(name)
        except ImportError as error:
            raise ImportError(f'the demo needs {name}: pip install "spear-tts-pytorch[demo]"') from error
