"""Which pseudo-labels are kept, and what the report says of all of them."""

import json

import pytest
import torch

from spear_tts_pytorch.data.pairs import SOURCE_TRUNCATED, GeneratedAudioTextDataset, PairWriter
from spear_tts_pytorch.data.quality import repetition, report, select

NAMES = ["good", "sure", "unsure", "empty", "loop", "long", "short", "cut", "unscored"]


def ids(n, size=9):
    return [1 + (7 * i + i * i) % size for i in range(n)]


@pytest.fixture
def pairs(tmp_path):
    with PairWriter(tmp_path / "pairs", num_semantic_token_ids=10, num_text_token_ids=10) as writer:
        writer.write("good", ids(30), ids(10), text="aaa", score=-0.5)
        writer.write("sure", ids(33), ids(10), score=-0.1)
        writer.write("unsure", ids(27), ids(10), score=-3.0)
        writer.write("empty", ids(30), [], score=-0.2)
        writer.write("loop", ids(60), [1, 2, 3] * 7, score=-0.2)
        writer.write("long", ids(90), ids(10), score=-0.2)
        writer.write("short", ids(9), ids(10), score=-0.2)
        writer.write("cut", ids(30), ids(10), score=-0.2, source=SOURCE_TRUNCATED)
        writer.write("unscored", ids(30), ids(10))
    return GeneratedAudioTextDataset(tmp_path / "pairs")


def kept(pairs, **options):
    chosen, left_out = select(pairs, **options)
    assert len(chosen) + sum(left_out.values()) == len(pairs)
    return [pairs.ids[index] for index in chosen.indices], left_out


def test_each_filter_leaves_out_its_own(pairs):
    names, left_out = kept(pairs)
    assert names == ["good", "sure", "unsure", "unscored"]
    assert left_out == {"empty": 1, "truncated": 1, "length_ratio": 2, "repetition": 1, "score": 0}
    everything = dict(length_ratio=None, max_repetition=None, truncated=True)
    assert kept(pairs, **everything)[0] == [name for name in NAMES if name != "empty"]
    assert "cut" in kept(pairs, truncated=True)[0]
    assert "loop" in kept(pairs, max_repetition=None)[0]
    assert {"long", "short"} <= set(kept(pairs, length_ratio=None)[0])


@pytest.mark.parametrize(
    ("share", "names"), [(0.75, ["good", "sure", "unsure"]), (0.5, ["good", "sure"]), (0.01, ["sure"])]
)
def test_the_best_share_goes_by_score_and_unscored_pairs_come_last(pairs, share, names):
    assert kept(pairs, best_share=share)[0] == names


def test_repetition_is_the_share_of_ngrams_seen_before():
    assert repetition(torch.tensor([1, 2, 3, 4, 5, 6])) == 0
    assert repetition(torch.tensor([1, 2, 3])) == 0
    loop = torch.tensor([1, 2, 3, 4] * 5)  # 17 4-grams, 4 of them different
    assert repetition(loop) == pytest.approx(1 - 4 / 17)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"best_share": 0.0}, "best_share must be above 0"),
        ({"length_ratio": (1.2, 2.0)}, "length_ratio must be"),
        ({"max_repetition": 2.0}, "max_repetition must be"),
        ({"length_ratio": (1.0, 1.0), "best_share": 1.0, "max_repetition": 0.0, "ids": ["loop"]}, "holds no pair"),
    ],
)
def test_bad_options_and_nothing_left(pairs, options, message):
    options = dict(options)
    names = options.pop("ids", None)
    if names is not None:
        with PairWriter(pairs.folder.parent / "one", num_text_token_ids=10) as writer:
            writer.write("loop", ids(60), [1, 2, 3] * 7, score=-0.2)
        pairs = GeneratedAudioTextDataset(pairs.folder.parent / "one")
    with pytest.raises(ValueError, match=message):
        select(pairs, **options)


def test_the_report_counts_and_shows_examples(pairs, tmp_path):
    found = report(pairs, tmp_path / "report", best_share=0.5)
    assert found == json.loads((tmp_path / "report" / "report.json").read_text())
    assert (found["pairs"], found["kept"], found["left_out"]["score"]) == (9, 2, 2)
    assert sorted(one["id"] for one in found["examples"]) == sorted(NAMES)
    assert next(one for one in found["examples"] if one["id"] == "good")["text"] == "aaa"
    assert found["scores"]["least"] == -3.0 and found["semantic_lengths"]["median"] == 30
    assert (tmp_path / "report" / "histograms.png").read_bytes().startswith(b"\x89PNG")
