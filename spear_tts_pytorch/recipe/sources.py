"""The recordings of a voice as clips: folders and manifests are read, texts are added, long recordings are cut.

In: the section `[data]` of the settings. Out: `Sources`. The cuts are kept in `cuts.csv` of the voice folder; there they may
be changed by hand, and hold while the recording is the same.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from spear_tts_pytorch.data.corpora.clip_files import NoTextWarning, few, lines_of, listed_id
from spear_tts_pytorch.data.corpora.corpus import Utterance
from spear_tts_pytorch.data.corpora.cutting import between, join_passages, part_of, silent_cuts
from spear_tts_pytorch.data.corpora.lhotse_cuts import is_cuts, read_lhotse
from spear_tts_pytorch.data.corpora.readers import read_corpus
from spear_tts_pytorch.data.corpora.tables import read_table
from spear_tts_pytorch.data.corpora.transcripts import TIMED_SUFFIXES, Passage, is_timed, read_passages
from spear_tts_pytorch.recipe.settings import Data
from spear_tts_pytorch.utils.files import digest_of_file, write_whole

CUTS, COLUMNS = "cuts.csv", ("id", "file", "start", "end", "text", "key")
SHORTEST = 2.0  # seconds of a clip of a long recording, where its pauses allow it
TRANSCRIPT = 2  # times `data.longest`: a longer clip with a text is a recording with a transcript


@dataclass(frozen=True)
class Transcript:
    """The text of a long recording, without times.

    Attributes:
        clips: ids of the recording's clips, in their order.
        text: as it was written.
    """

    clips: tuple[str, ...]
    text: str


@dataclass
class Sources:
    """All clips of a voice.

    Attributes:
        every: clips by id; parts of long recordings are clips.
        transcripts: texts of long recordings by the ids of these.
        cuts: rows of `cuts.csv`, by the columns.
        remarks: what the readers of the folders found odd. That clips have no text is not odd.
    """

    every: dict[str, Utterance]
    transcripts: dict[str, Transcript] = field(default_factory=dict[str, Transcript])
    cuts: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    remarks: list[str] = field(default_factory=list[str])

    def save_cuts(self, folder: Path) -> None:
        """Writes `cuts.csv` into the voice folder, if it is there, and there are cuts that are not in it yet.

        Rows of files that are not read now, such as those of another speaker, stay.
        """
        there, files = _read_cuts(folder / CUTS), {"", *(row["file"] for row in self.cuts)}
        rows = self.cuts + [row for row in there if row["file"] not in files]
        if folder.is_dir() and rows != there:
            write_whole(folder / CUTS, _written(rows))


def read_sources(data: Data, folder: Path, *, progress: bool = False) -> Sources:
    """Reads the recordings and texts that the settings name.

    Args:
        data: the settings; paths are relative to `folder`.
        folder: the voice folder, which need not exist yet.
        progress: shows a bar over recordings that are cut, on terminals.

    Raises:
        FileNotFoundError: a folder or file is missing.
        ValueError: no audio, two clips of one id, texts that name no clip, a damaged file, cuts that a recording does not have.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sources = _read(data, folder, progress)
    found = [one for one in caught if issubclass(one.category, UserWarning)]
    sources.remarks = [str(one.message) for one in found if not issubclass(one.category, NoTextWarning)]
    if sources.cuts:
        count = len({row["key"] for row in sources.cuts})
        sources.remarks.append(f"{count} recordings are cut into {len(sources.cuts)} clips, which {CUTS} lists")
    return sources


def _read(data: Data, folder: Path, progress: bool) -> Sources:
    column = int(data.text_column) if data.text_column.isdecimal() else data.text_column or None
    every = _recordings(data, folder, column)
    timed: dict[str, Path] = {}
    for name in data.text:
        path = at(folder, name)
        if is_timed(path.name):
            timed[_recording_of(path, every)] = path
        else:
            _add_texts(every, path, column)
    if data.speaker:
        every = {id_: one for id_, one in every.items() if one.speaker == data.speaker}
        if not every:
            raise ValueError(f"data.speaker: no clip is spoken by {data.speaker!r}: choose another, or ''")
    for one in every.values():
        if one.id not in timed and (beside := _transcript_beside(one)) is not None:
            timed[one.id] = beside
    sources = _cut(every, timed, data, folder, progress)
    short = [id_ for id_, one in sources.every.items() if one.sample_hz and one.seconds < data.shortest]
    if short:
        warnings.warn(f"{len(short)} clips are shorter than {data.shortest:g} s ({few(short)}): left out", stacklevel=2)
        for id_ in short:
            del sources.every[id_]
        for name, one in sources.transcripts.items():
            sources.transcripts[name] = replace(one, clips=tuple(id_ for id_ in one.clips if id_ in sources.every))
    return sources


def at(folder: Path, name: str) -> Path:
    """A path of the settings; the voice folder itself need not exist yet."""
    return Path(os.path.normpath(folder / name))


def relative(path: str | os.PathLike[str], folder: Path) -> str:
    """A path relative to the voice folder, with `/` on every system; absolute on another drive."""
    try:
        return Path(os.path.relpath(Path(path).resolve(), folder.resolve())).as_posix()
    except ValueError:
        return Path(path).resolve().as_posix()


def file_digest(one: Utterance) -> str:
    """A short fingerprint of a clip's file, or of its samples if it has none."""
    if one.path is None:
        return hashlib.sha256(np.ascontiguousarray(one.audio()).tobytes()).hexdigest()[:16]
    try:
        status = one.path.stat()
    except OSError:  # a link that leads nowhere: the clip is left out by name when its audio is read
        return "unreadable"
    return _digest_of(one.path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1 << 16)
def _digest_of(path: Path, size: int, changed: int) -> str:
    """`digest_of_file`, which is read once while size and time of the file are these."""
    return digest_of_file(path)


def _recordings(data: Data, folder: Path, column: str | int | None) -> dict[str, Utterance]:
    """All recordings by id. Where two folders share an id, the folder's name stands before it."""
    if not data.audio:
        raise ValueError("data.audio names no folder: give one with recordings")
    places = [at(folder, name) for name in data.audio]
    read = [
        read_lhotse(place) if is_cuts(place.name) else read_corpus(place, table=data.table or None, text_column=column)
        for place in places
    ]
    count = Counter(one.id for part in read for one in part)
    every: dict[str, Utterance] = {}
    for place, part in zip(places, read, strict=True):
        for one in part:
            id_ = one.id if count[one.id] == 1 else f"{place.resolve().name}/{one.id}"
            if id_ in every:
                raise ValueError(f"two clips of data.audio have the id {id_!r}: rename one, or the folder {place}")
            every[id_] = replace(one, id=id_)
    return every


def _add_texts(every: dict[str, Utterance], path: Path, column: str | int | None) -> None:
    """Gives clips the texts of a table whose rows name them; or a recording the text of a file of its name."""
    if not path.is_file():
        raise FileNotFoundError(f"data.text: there is no file {path}: give a table whose rows name the audio")
    by_name = _names(every)
    own = _found(by_name, path.stem)
    if own is not None and path.suffix.lower() == ".txt":
        every[own] = replace(every[own], text=" ".join(" ".join(lines_of(path)).split()))
        return
    table = read_table(path, lambda name: _found(by_name, name) is not None, column)
    if table is None:
        raise ValueError(f"data.text: no column of {path} names a clip: write ids or file names into one")
    for name, text, speaker in table.rows:
        id_ = _found(by_name, name)
        if id_ is not None and text:
            every[id_] = replace(every[id_], text=text, speaker=speaker or every[id_].speaker)


def _names(every: Mapping[str, Utterance]) -> dict[str, str]:
    by_name: dict[str, str] = {}
    for id_ in every:
        by_name[id_] = by_name[listed_id(id_.rpartition("/")[2])] = id_
    return by_name


def _found(by_name: Mapping[str, str], name: str) -> str | None:
    return by_name.get(name) or by_name.get(listed_id(name.replace("\\", "/").rpartition("/")[2]))


def _recording_of(path: Path, every: Mapping[str, Utterance]) -> str:
    """The id of the recording that a transcript with times belongs to."""
    id_ = _found(_names(every), path.stem)
    if id_ is None:
        raise ValueError(f"data.text: no recording has the name of {path}: give the transcript the name of its audio")
    return id_


def _transcript_beside(one: Utterance) -> Path | None:
    """A transcript with times that lies beside a recording and has its name."""
    if one.path is None:
        return None
    for suffix in (*TIMED_SUFFIXES, ".TextGrid"):
        if (path := one.path.with_suffix(suffix)).is_file():
            return path
    return None


def _cut(
    every: Mapping[str, Utterance], timed: Mapping[str, Path], data: Data, folder: Path, progress: bool
) -> Sources:
    """Cuts the recordings that are longer than `data.longest`, and those whose transcripts have times."""
    kept: dict[str, list[dict[str, str]]] = {}
    for row in _read_cuts(folder / CUTS):
        kept.setdefault(row["key"], []).append(row)
    found = Sources({})
    longest = {id_: data.longest * (TRANSCRIPT if one.text else 1) for id_, one in every.items()}
    wanted = {id_ for id_, one in every.items() if one.sample_hz and (id_ in timed or one.seconds > longest[id_])}
    bar = tqdm(total=len(wanted), desc="cutting", unit="file", disable=None if progress else True, leave=False)
    with bar:
        for id_, one in every.items():
            if id_ not in wanted:
                found.every[id_] = one
                continue
            key = _key(one, timed.get(id_), data)
            rows = kept.get(key) or _rows(one, timed.get(id_), data, folder, key)
            found.cuts += rows
            clips = [_clip(one, row, folder / CUTS) for row in rows]
            for clip in clips:
                if clip.id in found.every or clip.id in every:
                    raise ValueError(f"{folder / CUTS}: the clip {clip.id!r} comes twice: remove one of them")
                found.every[clip.id] = clip
            if id_ in timed:
                by_id = {clip.id: row for clip, row in zip(clips, rows, strict=True)}
                found.transcripts |= _long_passages(one, timed[id_], by_id, data)
            elif one.text:
                found.transcripts[id_] = Transcript(tuple(clip.id for clip in clips), one.text)
            bar.update()
    return found


def _clip(one: Utterance, row: Mapping[str, str], path: Path) -> Utterance:
    """The clip of a row of `cuts.csv`."""
    try:
        return part_of(one, (float(row["start"]), float(row["end"])), row["text"] or None)
    except ValueError as error:
        raise ValueError(f"{path}: {error}: correct the row {row['id']!r}, or remove it") from error


def _key(one: Utterance, transcript: Path | None, data: Data) -> str:
    """What the cuts of a recording depend on, as a short fingerprint."""
    parts = [one.id, file_digest(one), f"{data.longest:g}"]
    if transcript is not None:
        parts.append(hashlib.sha256(transcript.read_bytes()).hexdigest())
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _rows(one: Utterance, transcript: Path | None, data: Data, folder: Path, key: str) -> list[dict[str, str]]:
    """The cuts of a recording: the passages of its transcript, and speech between silences elsewhere."""
    shortest = min(SHORTEST, data.longest / 2)
    if transcript is None:
        spans = [(span, "") for span in silent_cuts(one, shortest, data.longest)]
    else:
        joined = _joined(one, transcript, data)
        spans = [((part.start, part.end), part.text) for part in joined if part.end - part.start <= data.longest]
        long = [(part.start, part.end) for part in joined if part.end - part.start > data.longest]
        free = silent_cuts(one, shortest, data.longest, [*between(joined, one.seconds, shortest), *long])
        spans = sorted([*spans, *((span, "") for span in free)])
    file = "" if one.path is None else relative(one.path, folder)
    rows: list[dict[str, str]] = []
    for (start, end), text in spans:
        span = (round(start, 3), round(end, 3))
        values = (part_of(one, span).id, file, f"{span[0]:.3f}", f"{span[1]:.3f}", text, key)
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def _joined(one: Utterance, transcript: Path, data: Data) -> list[Passage]:
    """The passages of a recording's transcript; those that follow each other closely are one."""
    passages = [passage for passage in read_passages(transcript) if passage.start < one.seconds]
    if not passages:
        raise ValueError(f"{transcript}: its passages begin after the end of the recording: correct its times")
    passages[-1] = replace(passages[-1], end=min(passages[-1].end, one.seconds))
    return join_passages(passages, data.longest)


def _long_passages(
    one: Utterance, path: Path, rows: Mapping[str, Mapping[str, str]], data: Data
) -> dict[str, Transcript]:
    """The texts of passages that are longer than a clip may be, by the recording and the seconds at which they begin.

    A passage is left out if one of its clips has a text of its own, written into `cuts.csv` by hand.

    Args:
        one: the recording.
        path: its transcript.
        rows: of `cuts.csv`, by the ids of the recording's clips.
        data: the settings.
    """
    found: dict[str, Transcript] = {}
    for passage in _joined(one, path, data):
        if passage.end - passage.start <= data.longest:
            continue
        within = {id_: row for id_, row in rows.items() if passage.start <= _middle(row) < passage.end}
        if within and not any(row["text"] for row in within.values()):
            found[f"{one.id}, {passage.start:.2f} s"] = Transcript(tuple(within), passage.text)
    if found:
        warnings.warn(
            f"{path}: {len(found)} passages are longer than data.longest={data.longest:g} s ({few(list(found))}): they are "
            "cut, and their texts are divided among the parts once a reader is trained",
            stacklevel=2,
        )
    return found


def _middle(row: Mapping[str, str]) -> float:
    return (float(row["start"]) + float(row["end"])) / 2


def copy_cuts(folder: Path, into: Path) -> None:
    """Copies `cuts.csv`, if there is one, to another voice folder."""
    rows = _read_cuts(folder / CUTS)
    if rows:
        rows = [{**row, "file": row["file"] and relative(at(folder, row["file"]), into)} for row in rows]
        write_whole(into / CUTS, _written(rows))


def _read_cuts(path: Path) -> list[dict[str, str]]:
    """The rows of a `cuts.csv`; none if there is no such file.

    Raises:
        ValueError: it is damaged.
    """
    if not path.is_file():
        return []
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")), strict=True))
        for row in rows:
            if set(row) != set(COLUMNS) or not 0 <= float(row["start"]) < float(row["end"]) < float("inf"):
                raise ValueError(f"a row is not {','.join(COLUMNS)}")
    except (ValueError, TypeError, csv.Error) as error:
        raise ValueError(
            f"{path} is damaged ({error}): repair it, or remove it to have the recordings cut again"
        ) from error
    return rows


def _written(rows: Sequence[Mapping[str, str]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")
