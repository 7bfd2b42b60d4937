"""Transcripts with times: SubRip, WebVTT and TextGrid give the same passages; damaged ones are refused by name."""

import pytest

from spear_tts_pytorch.data.corpora.transcripts import Passage, read_passages, said

SRT = "1\n00:00:01,000 --> 00:00:03,500\n<i>We are</i> here\n\n2\n00:00:04,000 --> 00:00:05,000\n- Second &amp; line\nthird\n"
VTT = "WEBVTT\n\nNOTE none\n\n" + SRT.replace(",", ".").replace("<i>We are</i>", "<v Ann>We are")
GRID = """File type = "ooTextFile"
Object class = "TextGrid"

0
6
<exists>
2
"IntervalTier"
"phones"
0
6
1
0
6
"x"
"IntervalTier"
"Words"
0
6
4
0
1
""
1
3.5
"We are here"
3.5
4
""
4
5
"Second & line third"
"""
EXPECTED = [Passage(1.0, 3.5, "We are here"), Passage(4.0, 5.0, "Second & line third")]


@pytest.mark.parametrize(("name", "text"), [("a.srt", SRT), ("a.vtt", VTT), ("a.TextGrid", GRID)])
def test_each_format_gives_the_same_passages(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    assert read_passages(path) == EXPECTED


def test_what_is_not_said_is_left_out():
    assert said("[music] - Hello, <b>you</b> (laughs)\n>> And ♪ you?") == "Hello, you And you?"


@pytest.mark.parametrize("name", ["a.srt", "a.vtt", "a.TextGrid"])
@pytest.mark.parametrize(
    "data", [b"", b"nothing", b"\xff\xfe\x00rubbish", b"1\n00:00:05,000 --> 00:00:04,000\nback\n\n"]
)
def test_damaged_transcripts_name_the_file(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.(srt|vtt|TextGrid)"):
        read_passages(path)


def test_passages_that_overlap_a_little_meet_in_the_middle(tmp_path):
    path = tmp_path / "a.srt"
    path.write_text("1\n00:00:00,000 --> 00:00:02,200\na\n\n2\n00:00:02,000 --> 00:00:03,000\nb\n")
    assert read_passages(path) == [Passage(0.0, 2.1, "a"), Passage(2.1, 3.0, "b")]


def test_tiers_of_other_names_are_asked_for(tmp_path):
    path = tmp_path / "a.TextGrid"
    path.write_text(GRID.replace("Words", "Mots"))
    with pytest.raises(ValueError, match="interval tiers.*phones, Mots"):
        read_passages(path)
