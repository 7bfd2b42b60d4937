"""Recordings of a voice: long ones are cut, transcripts become texts, what is changed by hand holds."""

import csv
import os

import numpy as np
import pytest
import voices
from babble import HZ, make_clips

from spear_tts_pytorch.data.audio import load_audio, save_audio
from spear_tts_pytorch.data.corpora.layouts import file_utterance
from spear_tts_pytorch.recipe.clips import read_clips
from spear_tts_pytorch.recipe.settings import Data
from spear_tts_pytorch.recipe.sources import CUTS, file_digest, read_sources

DATA = Data(audio=("corpus",), longest=6)
SRT = "1\n00:00:00,000 --> 00:00:01,500\nOne two.\n\n2\n00:00:01,600 --> 00:00:03,000\nthree\n"


@pytest.fixture
def folder(tmp_path):
    """Five labelled clips, and a recording of clips with pauses between."""
    voices.corpus(tmp_path / "corpus", clips=8, texts=6)
    pause = np.zeros(round(0.6 * HZ), dtype=np.float32)
    wav = np.concatenate([part for clip in make_clips()[8:24] for part in (clip, pause)])
    save_audio(tmp_path / "corpus" / "wavs" / "long.wav", wav, HZ)
    return tmp_path


def rows(folder):
    return list(csv.DictReader((folder / CUTS).open(encoding="utf-8")))


def test_a_long_recording_becomes_clips_and_a_table(folder):
    sources = read_sources(DATA, folder)
    clips = [one for id_, one in sources.every.items() if id_.startswith("long-")]
    assert len(sources.every) == 8 + len(clips) and len(clips) > 2 and "long" not in sources.every
    assert sources.remarks == [f"1 recordings are cut into {len(clips)} clips, which cuts.csv lists"]
    assert all(0.5 <= one.seconds <= 6 for one in clips)
    sources.save_cuts(folder)
    wav = load_audio(folder / "corpus/wavs/long.wav")[0]
    for row, one in zip(rows(folder), clips, strict=True):
        assert (row["id"], row["file"], row["text"]) == (one.id, "corpus/wavs/long.wav", "")
        start, end = (round(float(row[name]) * HZ) for name in ("start", "end"))
        assert np.array_equal(one.audio(), wav[start:end])


def test_cuts_that_were_changed_by_hand_hold_until_the_recording_or_the_length_changes(folder):
    read_sources(DATA, folder).save_cuts(folder)
    path = folder / CUTS
    path.write_text("\n".join(path.read_text().splitlines()[:3]) + "\n")
    assert len(read_sources(DATA, folder).cuts) == 2
    assert len(read_sources(Data(audio=("corpus",), longest=3), folder).cuts) > 2
    wav = load_audio(folder / "corpus/wavs/long.wav")[0]
    save_audio(folder / "corpus/wavs/long.wav", wav[: len(wav) * 3 // 4], HZ)
    assert len(read_sources(DATA, folder).cuts) > 2


def test_cuts_of_recordings_that_are_not_read_now_stay(folder):
    wav = load_audio(folder / "corpus/wavs/long.wav")[0]
    (folder / "other").mkdir()
    save_audio(folder / "other" / "lecture.wav", wav, HZ)
    both = Data(audio=("corpus", "other"), longest=6)
    read_sources(both, folder).save_cuts(folder)
    lines = (folder / CUTS).read_text().splitlines()
    by_hand = [line for line in lines if "lecture" not in line] + [line for line in lines if "lecture" in line][:2]
    (folder / CUTS).write_text("\ufeff" + "\n".join(by_hand) + "\n", encoding="utf-8")  # as spreadsheets write it
    for data in (DATA, both):
        read_sources(data, folder).save_cuts(folder)
    assert (folder / CUTS).read_text().lstrip("\ufeff").splitlines() == by_hand


def test_a_change_in_the_middle_of_a_long_recording_is_noticed(folder):
    path = folder / "corpus/wavs/long.wav"
    save_audio(path, np.zeros(5_000_000), HZ)
    before = file_digest(file_utterance("long", None, None, path))
    with path.open("r+b") as file:
        file.seek(5_000_000)
        file.write(b"\1")
    os.utime(path, ns=(1, 1))  # the clock may be too coarse to tell the two
    assert file_digest(file_utterance("long", None, None, path)) != before


@pytest.mark.parametrize("beside", [True, False])
def test_a_transcript_with_times_gives_texts(folder, beside):
    path = folder / ("corpus/wavs/long.srt" if beside else "long.srt")
    path.write_text(SRT)
    clips = read_clips(DATA if beside else Data(audio=("corpus",), longest=6, text=("long.srt",)), folder)
    told = {id_: clips.text(id_) for id_ in clips.every if id_.startswith("long-") and clips.text(id_)}
    assert told == {"long-0000000-0000150": "one two.", "long-0000160-0000300": "three"}
    rest = [id_ for id_ in clips.unlabelled if id_.startswith("long-")]
    assert rest and min(rest) > "long-0000300"
    assert set(told) < set(clips.labelled)


def test_a_passage_longer_than_a_clip_is_cut_and_its_text_waits(folder):
    """No clip is longer than the limit, and all of the passage is in a clip; its text is aligned later."""
    rng = np.random.default_rng(0)
    save_audio(folder / "corpus/wavs/long.wav", 0.3 * rng.standard_normal(40 * HZ), HZ)
    text = "1\n00:00:01,000 --> 00:00:05,000\nOne two.\n\n2\n00:00:05,500 --> 00:00:25,000\nthree four\n"
    (folder / "corpus/wavs/long.srt").write_text(text)
    for _ in range(2):
        sources = read_sources(DATA, folder)
        sources.save_cuts(folder)
        parts = [(float(row["start"]), float(row["end"])) for row in sources.cuts]
        assert all(end - start <= 6 for start, end in parts) and parts == sorted(parts)
        ((name, transcript),) = sources.transcripts.items()
        assert (name, transcript.text) == ("long, 5.50 s", "three four")
        within = [part for part, row in zip(parts, sources.cuts, strict=True) if row["id"] in transcript.clips]
        assert (within[0][0], within[-1][1]) == (5.5, 25.0) and len(within) > 3
        assert all(a[1] == b[0] for a, b in zip(within[:-1], within[1:], strict=True))
        assert sources.every["long-0000100-0000500"].text == "One two."
        assert any("1 passages are longer than data.longest=6 s (long, 5.50 s)" in one for one in sources.remarks)
    path = folder / CUTS
    path.write_text(path.read_text().replace(f",{within[0][1]:.3f},,", f",{within[0][1]:.3f},three,"))
    assert read_sources(DATA, folder).transcripts == {}


def test_clips_that_are_left_out_are_in_no_transcript(folder):
    (folder / "long.txt").write_text("One two three.\nFour\n")
    sources = read_sources(Data(audio=("corpus",), longest=6, text=("long.txt",), shortest=4), folder)
    clips = sources.transcripts["long"].clips
    assert clips and set(clips) <= set(sources.every)


def test_a_text_without_times_waits_for_its_alignment(folder):
    (folder / "long.txt").write_text("One two three.\nFour\n")
    clips = read_clips(Data(audio=("corpus",), longest=6, text=("long.txt",)), folder)
    transcript = clips.transcripts["long"]
    assert transcript.text == "One two three. Four"
    assert transcript.clips and set(transcript.clips) < set(clips.unlabelled)


def test_a_labelled_clip_somewhat_longer_than_the_limit_stays_whole(folder):
    most = max(len(clip) for clip in make_clips()[:6]) / HZ
    clips = read_clips(Data(audio=("corpus",), longest=round(most / 1.5, 3)), folder)
    assert {f"clip{number:02d}" for number in range(6)} == set(clips.labelled)


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [("9000", "9001", "has .* s, no part from 9000.00 s"), ("0.000", "2.000", "comes twice")],
)
def test_rows_of_cuts_that_cannot_be_are_named(folder, start, end, message):
    read_sources(DATA, folder).save_cuts(folder)
    path = folder / CUTS
    row = {**rows(folder)[0], "start": start, "end": end}
    with path.open("a", encoding="utf-8") as file:
        file.write((",".join(row.values()) + "\n") * 2)
    with pytest.raises(ValueError, match=rf"cuts\.csv: .*{message}.*remove"):
        read_sources(DATA, folder)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("other.srt", SRT, "no recording has the name of"),
        ("long.srt", "", "long.srt"),
        ("long.srt", SRT.replace("00:00", "05:00"), "begin after the end"),
        ("long.txt", "\udce9", "long.txt is not UTF-8"),
        (CUTS, "id,file\n1,2\n", "cuts.csv is damaged"),
        (CUTS, "id,file,start,end,text,key\na,b,3,2,,k\n", "cuts.csv is damaged"),
    ],
)
def test_transcripts_and_tables_that_cannot_be_name_the_file(folder, name, text, message):
    (folder / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ValueError, match=message):
        read_sources(Data(audio=("corpus",), longest=6, text=() if name == CUTS else (name,)), folder)


def test_a_manifest_of_lhotse_is_a_source(folder):
    from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

    recording = Recording.from_file(folder / "corpus/wavs/long.wav")
    told = SupervisionSegment("s", recording.id, 0.0, 1.5, text="seven")
    cuts = [MonoCut("told", 0.0, 1.5, 0, recording=recording, supervisions=[told]), recording.to_cut()]
    CutSet.from_cuts(cuts).to_file(folder / "cuts.jsonl.gz")
    sources = read_sources(Data(audio=("cuts.jsonl.gz",), longest=6), folder)
    assert sources.every["told"].text == "seven" and len(sources.cuts) == len(sources.every) - 1 > 2
