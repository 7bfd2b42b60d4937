"""Writes a corpus that is held in memory as a folder in LJSpeech's layout, which all commands read.

In: a `Corpus`. Out: `wavs/`, `metadata.csv` (`id|text`), and the ids of two parts in `labelled.txt` and `test.txt`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from spear_tts_pytorch.data.audio import save_audio
from spear_tts_pytorch.data.corpora.clip_files import check_unique
from spear_tts_pytorch.data.corpora.corpus import Corpus, Utterance
from spear_tts_pytorch.utils.files import whole_folder, write_whole
from spear_tts_pytorch.utils.values import given_path, instance

NOT_IN_NAMES = set("/\\|\0\r\n")


def write_corpus(corpus: Corpus, folder: str | Path) -> None:
    """Writes a corpus, with the texts of all parts. The folder appears complete or not at all.

    Raises:
        FileExistsError: the folder exists and is not empty.
        ValueError: an id that comes twice, or cannot be both a file's name and a cell of the table.
    """
    instance("corpus", corpus, Corpus)
    check_unique([one.id for one in (*corpus.test, *corpus.labelled, *corpus.unlabelled)])
    for one in (*corpus.test, *corpus.labelled, *corpus.unlabelled):
        if one.id != one.id.strip() or not one.id or one.id.startswith(".") or set(one.id) & NOT_IN_NAMES:
            raise ValueError(
                f"the id {one.id!r} cannot be the name of a file: rename the clip, without blanks and dots at its start, "
                "slashes, bars and line breaks"
            )
    with whole_folder(given_path("folder", folder)) as place:
        (place / "wavs").mkdir()
        every = [*corpus.test, *corpus.labelled, *corpus.unlabelled]
        for one in every:
            save_audio(place / "wavs" / f"{one.id}.wav", one.audio(), one.sample_hz)
        rows = [f"{one.id}|{' '.join(one.text.split())}" for one in every if one.text]
        write_whole(place / "metadata.csv", _lines(rows))
        write_whole(place / "labelled.txt", _lines(_ids(corpus.labelled)))
        write_whole(place / "test.txt", _lines(_ids(corpus.test)))


def _ids(part: Iterable[Utterance]) -> list[str]:
    return [one.id for one in part]


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
