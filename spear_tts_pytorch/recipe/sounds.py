"""Sounds of the report: clips beside their sound made of ids, clips with their pseudo-labels, texts that voices say.

In: `Results`. Out: WAVs in `audio/` of the voice folder, and a row for each: its files and its text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from spear_tts_pytorch.data.audio import save_audio
from spear_tts_pytorch.recipe.columns import column_model
from spear_tts_pytorch.recipe.results import Results
from spear_tts_pytorch.recipe.saying import Resynthesizer, say

AUDIO = "audio"
UNITS, LABELS, EXAMPLES = 3, 5, 5


def resynthesizer_of(results: Results) -> Resynthesizer | None:
    """What turns ids of a voice into sound: its network, or else its tokenizer if that can."""
    if results.network is not None:
        return results.network
    return results.tokenizer if isinstance(results.tokenizer, Resynthesizer) else None


def unit_sounds(results: Results) -> list[dict[str, Any]]:
    """Some clips, and their sound made of their ids where the voice can make it."""
    ids = [id_ for id_ in spaced(list(results.clips.every), UNITS) if len(results.ids.get(id_, ()))]
    rows: list[dict[str, Any]] = []
    for number, id_ in enumerate(ids, start=1):
        files = [_clip(results, id_, f"clip-{number}")]
        sounds = resynthesizer_of(results)
        if sounds is not None:
            wav = sounds.resynthesize(results.ids[id_])
            files.append(_save(results, f"clip-{number}-ids", wav, sounds.target_sample_hz))
        rows.append({"files": files, "text": results.clips.text(id_) or id_})
    return rows


def label_sounds(results: Results) -> list[dict[str, Any]]:
    """Some clips without a text and their pseudo-labels."""
    if results.pairs is None:
        return []
    texts = dict(zip(results.pairs.ids, results.pairs.column("text"), strict=True))
    ids = spaced([id_ for id_ in texts if id_ in results.clips.every], LABELS)
    return [
        {"files": [_clip(results, id_, f"label-{number}")], "text": texts[id_] or ""}
        for number, id_ in enumerate(ids, start=1)
    ]


def said_sounds(results: Results) -> list[dict[str, Any]]:
    """Some test texts, or labelled ones if none are tested, as the voice says them and the reader reads them."""
    rows = results.test if results.test.ids else results.labelled
    options: dict[str, Any] = {"reader": results.reader, "resynthesizer": resynthesizer_of(results)}
    said = say(results.model, spaced(rows.texts, EXAMPLES), seed=results.settings.training.seed, **options)
    examples: list[dict[str, Any]] = []
    for number, one in enumerate(said, start=1):
        name = ""
        if len(one.ids) and one.resynthesizer is not None:
            name = _save(results, str(number), one.wav, one.sample_hz)
        examples.append({"file": name, "text": one.text, "read_back": one.read_back, "error": one.error})
    return examples


def column_sounds(results: Results, columns: Mapping[str, tuple[str, Results]], folder: Path) -> list[dict[str, Any]]:
    """Some test texts as columns of several voices say them, beside the recording and the sound made of its ids.

    Args:
        results: of the voice that has the clips.
        columns: by the label of each column, its letter and the results of its voice, where it is trained.
        folder: takes the sounds, in `audio/`.

    Returns:
        For each text: "text", and "files" by label, relative to `folder`; "" where nothing was said. Empty if the voice
        makes no sound.
    """
    made = resynthesizer_of(results)
    if made is None:
        return []
    ids = spaced(results.test.ids, EXAMPLES)
    texts, seed = [results.clips.text(id_) for id_ in ids], results.settings.training.seed
    said = {
        label: say(column_model(other, name), texts, reader=other.reader, seed=seed)
        for label, (name, other) in columns.items()
    }
    examples: list[dict[str, Any]] = []
    for number, (id_, text) in enumerate(zip(ids, texts, strict=True), start=1):
        one = results.clips.every[id_]
        files = {label: _file(folder, f"{number}-{label}", rows[number - 1].ids, made) for label, rows in said.items()}
        files["true ids"] = _file(folder, f"{number}-ids", results.ids[id_], made)
        files["recording"] = _write(folder, f"{number}-recording", one.audio(), one.sample_hz)
        examples.append({"text": text, "files": files})
    return examples


def _file(folder: Path, name: str, ids: Tensor, sounds: Resynthesizer) -> str:
    return _write(folder, name, sounds.resynthesize(ids), sounds.target_sample_hz) if len(ids) else ""


def spaced(items: Sequence[str], count: int) -> list[str]:
    """Some items, evenly spaced."""
    return (
        [items[place] for place in sorted({round(n * (len(items) - 1) / max(1, count - 1)) for n in range(count)})]
        if items
        else []
    )


def _clip(results: Results, id_: str, name: str) -> str:
    one = results.clips.every[id_]
    return _save(results, name, one.audio(), one.sample_hz)


def _save(results: Results, name: str, wav: Any, sample_hz: int) -> str:
    """Writes a WAV and returns its path in the voice folder."""
    return _write(results.folder, name, wav, sample_hz)


def _write(folder: Path, name: str, wav: Any, sample_hz: int) -> str:
    """Writes a WAV and returns its path in a folder."""
    (folder / AUDIO).mkdir(exist_ok=True)
    save_audio(folder / AUDIO / f"{name}.wav", wav, sample_hz)
    return f"{AUDIO}/{name}.wav"
