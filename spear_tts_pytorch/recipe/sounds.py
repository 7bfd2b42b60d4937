"""Sounds of the report: clips beside their sound made of ids, clips with their pseudo-labels, texts that the voice says.

In: `Results`. Out: WAVs in `audio/` of the voice folder, and a row for each: its files and its text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from spear_tts_pytorch.data.audio import save_audio
from spear_tts_pytorch.recipe.results import Results
from spear_tts_pytorch.recipe.saying import Resynthesizer, say

AUDIO = "audio"
UNITS, LABELS, EXAMPLES = 3, 5, 5


def unit_sounds(results: Results) -> list[dict[str, Any]]:
    """Some clips, and their sound made of their ids where the tokenizer makes sound."""
    ids = [id_ for id_ in _spread(list(results.clips.every), UNITS) if len(results.ids.get(id_, ()))]
    rows: list[dict[str, Any]] = []
    for number, id_ in enumerate(ids, start=1):
        files = [_clip(results, id_, f"clip-{number}")]
        if isinstance(results.tokenizer, Resynthesizer):
            wav = cast(Resynthesizer, results.tokenizer).resynthesize(results.ids[id_])
            files.append(_save(results, f"clip-{number}-ids", wav, results.tokenizer.target_sample_hz))
        rows.append({"files": files, "text": results.clips.text(id_) or id_})
    return rows


def label_sounds(results: Results) -> list[dict[str, Any]]:
    """Some clips without a text and their pseudo-labels."""
    if results.pairs is None:
        return []
    texts = dict(zip(results.pairs.ids, results.pairs.column("text"), strict=True))
    ids = _spread([id_ for id_ in texts if id_ in results.clips.every], LABELS)
    return [
        {"files": [_clip(results, id_, f"label-{number}")], "text": texts[id_] or ""}
        for number, id_ in enumerate(ids, start=1)
    ]


def said_sounds(results: Results) -> list[dict[str, Any]]:
    """Some test texts, or labelled ones if none are tested, as the voice says them and the reader reads them."""
    rows = results.test if results.test.ids else results.labelled
    said = say(results.model, _spread(rows.texts, EXAMPLES), reader=results.reader, seed=results.settings.training.seed)
    examples: list[dict[str, Any]] = []
    for number, one in enumerate(said, start=1):
        name = ""
        if len(one.ids) and isinstance(results.tokenizer, Resynthesizer):
            name = _save(results, str(number), one.wav, one.sample_hz)
        examples.append({"file": name, "text": one.text, "read_back": one.read_back, "error": one.error})
    return examples


def _spread(items: Sequence[str], count: int) -> list[str]:
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
    (results.folder / AUDIO).mkdir(exist_ok=True)
    save_audio(results.folder / AUDIO / f"{name}.wav", wav, sample_hz)
    return f"{AUDIO}/{name}.wav"
