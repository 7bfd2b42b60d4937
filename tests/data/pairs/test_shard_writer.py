"""Shards and interruptions: Ctrl-C at every line of the writing leaves each pair once."""

import sys
from collections import Counter
from pathlib import Path

import pytest

from spear_tts_pytorch.data.pairs import GeneratedAudioTextDataset, PairWriter, list_shards, shard_writer, writer
from spear_tts_pytorch.utils import files

TRACED = {module.__file__ for module in (writer, shard_writer, files)}
PAIRS = [(f"u{number}", [number, 1], [1 + number]) for number in range(5)]


class Interrupt:
    """Raises KeyboardInterrupt at one line of the writer, as Ctrl-C may, and notes which lines ran."""

    def __init__(self, at):
        self.at, self.lines, self.places = at, 0, []

    def __call__(self, frame, event, argument):
        if frame.f_code.co_filename not in TRACED:
            return None
        if event == "line":
            self.lines += 1
            self.places.append((frame.f_code.co_filename, frame.f_lineno))
            if self.lines == self.at:
                raise KeyboardInterrupt
        return self


def write(folder, pairs, together, at=0):
    """Writes pairs in shards of two; the lines that ran before the end or the interruption, in their order."""
    interrupt = Interrupt(at)
    try:
        with PairWriter(folder, rows_per_shard=2) as out:
            sys.settrace(interrupt)
            if together:
                ids, semantic_ids, text_ids = zip(*pairs, strict=True)
                out.write_many(ids[:2], semantic_ids[:2], text_ids[:2])
                out.write_many(ids[2:], semantic_ids[2:], text_ids[2:])
            else:
                for pair in pairs:
                    out.write(*pair)
            out.flush()
            sys.settrace(None)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    return interrupt.places


def moments(places):
    """Of all moments the first and the last of each line."""
    found = {}
    for at, place in enumerate(places, 1):
        found.setdefault(place, []).append(at)
    return sorted({at for every in found.values() for at in (every[0], every[-1])})


@pytest.mark.slow
@pytest.mark.parametrize("together", [False, True])
def test_an_interruption_at_any_line_leaves_each_pair_once(tmp_path, together):
    places = write(tmp_path / "whole", PAIRS, together)
    assert len(places) > 100  # the whole writing was traced
    for at in moments(places):
        folder = tmp_path / str(at)
        write(folder, PAIRS, together, at)
        done = Counter(GeneratedAudioTextDataset(folder).ids if list_shards(folder) else [])
        assert max(done.values(), default=1) == 1, at
        rest = [pair for pair in PAIRS if pair[0] not in done]
        if rest:
            write(folder, rest, together and len(rest) > 2)
        found = {name: (s.tolist(), t.tolist()) for name, s, t in rows(folder)}
        assert found == {name: (s, t) for name, s, t in PAIRS}, at
        assert sum(Counter(GeneratedAudioTextDataset(folder).ids).values()) == len(PAIRS), at


def rows(folder):
    return GeneratedAudioTextDataset(folder, columns=("id", "semantic_ids", "text_ids"))


def test_a_shard_that_was_written_before_an_interruption_is_not_written_again(tmp_path, monkeypatch):
    """The worst moment: the file has its name, and the writer does not know it yet."""
    write_whole = shard_writer.write_whole

    def interrupted(*arguments, **options):
        write_whole(*arguments, **options)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        with PairWriter(tmp_path) as out:
            out.write("a", [1], [1])
            monkeypatch.setattr(shard_writer, "write_whole", interrupted)
            try:
                out.flush()
            finally:
                monkeypatch.undo()
                out.write("b", [2], [2])  # after the interruption
    assert GeneratedAudioTextDataset(tmp_path).ids == ["a", "b"]


def test_relative_folders_stay_where_they_were(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = PairWriter("pairs")
    out.write("a", [1], [1])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    out.close()
    assert GeneratedAudioTextDataset(tmp_path / "pairs").ids == ["a"] and not Path("pairs").exists()
    monkeypatch.chdir(tmp_path)
    pairs = GeneratedAudioTextDataset("pairs", cache_folder="cache")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert pairs[0][0].tolist() == [1] and (tmp_path / "cache").is_dir()
