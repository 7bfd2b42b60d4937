"""What is said when: characters aligned by a reader, phones of TextGrids, labels of frames."""

import pytest
import torch

from spear_tts_pytorch.recipe.labelled_frames import character_spans, frame_labels, given_spans

GRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 1
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 1
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 1
            text = "ab"
    item [2]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 1
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.25
            text = "AH"
        intervals [2]:
            xmin = 0.25
            xmax = 0.5
            text = ""
        intervals [3]:
            xmin = 0.5
            xmax = 1
            text = "B"
"""


def encode(text):
    return torch.tensor(["_ab".index(letter) for letter in text])


@pytest.mark.parametrize("frames_per_id", [1, 2])
def test_a_character_begins_at_the_frame_of_its_id_and_lasts_until_the_next(frames_per_id):
    """The reader says "a" at the second id and "b" at the fourth; there are ten frames a second."""
    said = {7: 0, 1: 1, 2: 0, 3: 2, 4: 0}

    def log_probs(ids):
        rows = torch.full((len(ids), 3), -9.0)
        for place, one in enumerate(ids.tolist()):
            rows[place, said[one]] = -0.01
        return rows.repeat_interleave(frames_per_id, dim=0)

    frames = {"x": torch.tensor([7, 7, 7, 1, 1, 2, 3, 3, 4, 4])}
    spans = character_spans(frames, {"x": "ab"}, encode, log_probs, 10.0)
    assert spans == {
        "x": [(pytest.approx(0.3), pytest.approx(0.6), "a"), (pytest.approx(0.6), pytest.approx(1.0), "b")]
    }
    labels = frame_labels(spans["x"], 10, 10.0, {"a": 0, "b": 1})
    assert labels.tolist() == [-1, -1, -1, 0, 0, 0, 1, 1, 1, 1]
    assert frame_labels(spans["x"], 22, 20.0, {"a": 0, "b": 1}).tolist() == [-1] * 6 + [0] * 6 + [1] * 8 + [-1] * 2


def test_a_clip_with_more_characters_than_ids_is_left_out():
    flat = {"x": torch.tensor([1, 1, 1]), "y": torch.tensor([1, 2])}
    found = character_spans(flat, {"x": "ab", "y": "a"}, encode, lambda ids: torch.zeros(len(ids), 3), 10.0)
    assert list(found) == ["y"]


def test_phones_are_read_from_the_tier_of_their_name(tmp_path):
    pytest.importorskip("praatio", reason="TextGrids need praatio")
    (tmp_path / "one.TextGrid").write_text(GRID)
    assert given_spans(tmp_path, ["one", "two"]) == {"one": [(0, 0.25, "AH"), (0.5, 1, "B")]}
    with pytest.raises(
        FileNotFoundError, match=r"a file for none of the labelled clips \(two\): name them ID.TextGrid"
    ):
        given_spans(tmp_path, ["two"])
    with pytest.raises(FileNotFoundError, match="alignments: there is no folder"):
        given_spans(tmp_path / "nowhere", ["one"])
    (tmp_path / "one.TextGrid").write_text(GRID.replace('"phones"', '"other"'))
    with pytest.raises(ValueError, match="none of its 2 interval tiers .* is called phones or"):
        given_spans(tmp_path, ["one"])
