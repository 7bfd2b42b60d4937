"""Folders of rows that releases up to 0.4.8 wrote: splitting, end-of-sequence, filters, broken rows."""

import json
import pickle

import pytest
import torch
from pair_rows import as_lists, write_rows

from spear_tts_pytorch.data.pairs import GeneratedAudioTextDataset


def test_rows_of_release_048_as_their_clean_parse(fixtures):
    expected = json.loads((fixtures / "legacy_pairs.json").read_text())
    eos_id = {"speech": expected["eos_speech"], "text": expected["eos_text"]}
    for options in ({"eos_id": eos_id}, {}):  # told, and recognised
        dataset = GeneratedAudioTextDataset(fixtures / "legacy_pairs", **options)
        assert [path.name for path in dataset.paths] == sorted(expected["files"], key=lambda name: int(name[:-3]))
        for path, (semantic_ids, text_ids) in zip(dataset.paths, dataset, strict=True):
            assert semantic_ids.tolist() == expected["files"][path.name]["clean_audio"]
            assert text_ids.tolist() == expected["files"][path.name]["clean_text"]


def test_rows_of_release_048(tmp_path):
    torch.save(torch.tensor([3, 4, -1, -1, -1, 7, 8, 0]), tmp_path / "10.pt")  # padding, delimiter, padding
    torch.save(torch.tensor([5, 6, -1, 7, 9], dtype=torch.int32), tmp_path / "9.pt")
    # in the order of their numbers; nothing in them looks like an end-of-sequence
    assert as_lists(GeneratedAudioTextDataset(tmp_path)) == [([5, 6], [7, 9]), ([3, 4], [7, 8])]
    told = GeneratedAudioTextDataset(tmp_path, eos_id={"speech": 6, "text": 8})
    assert as_lists(told) == [([5], [7, 9]), ([3, 4], [7])]
    torch.save(torch.tensor([1, 2, 3]), tmp_path / "11.pt")
    with pytest.raises(ValueError, match="11.pt has no delimiter -1"):
        GeneratedAudioTextDataset(tmp_path)
    (tmp_path / "11.pt").write_bytes(b"not a tensor")
    with pytest.raises(ValueError, match="11.pt is damaged or no file of weights"):
        GeneratedAudioTextDataset(tmp_path)
    write_rows(tmp_path / "new")
    (tmp_path / "new" / "0.pt").write_bytes((tmp_path / "9.pt").read_bytes())
    with pytest.raises(ValueError, match="both Parquet shards and .pt rows"):
        GeneratedAudioTextDataset(tmp_path / "new")


def test_filters_of_old_rows(tmp_path):
    for number, values in enumerate([[3, 4, -1, 7], [5, -1, 7, 9], [6, 6, 6, -1, 1]]):
        torch.save(torch.tensor(values), tmp_path / f"{number}.pt")
    dataset = GeneratedAudioTextDataset(tmp_path, semantic_lengths=(2, None), columns=("id", "semantic_ids", "score"))
    assert [(name, ids.tolist(), score) for name, ids, score in dataset] == [
        ("0", [3, 4], None),
        ("2", [6, 6, 6], None),
    ]
    assert pickle.loads(pickle.dumps(dataset)).ids == ["0", "2"]
    assert GeneratedAudioTextDataset(tmp_path, ids=["1"])[0][1].tolist() == [7, 9]
    with pytest.raises(ValueError, match="holds no scores"):
        GeneratedAudioTextDataset(tmp_path, min_score=-1.0)


def test_a_bad_old_row_is_left_out_alone_when_asked(tmp_path):
    for number, values in enumerate([[3, 4, -1, 7], [5, 6], [2**40, -1, 7], [8, -1, -7], [6, -1, 1]]):
        torch.save(torch.tensor(values), tmp_path / f"{number}.pt")
    (tmp_path / "9.pt").write_bytes(b"not a tensor")
    with pytest.raises(ValueError, match="1.pt has no delimiter"):
        GeneratedAudioTextDataset(tmp_path)
    with pytest.warns(UserWarning, match="left out: .*pt") as warned:
        dataset = GeneratedAudioTextDataset(tmp_path, on_error="skip")
    assert (dataset.ids, as_lists(dataset)) == (["0", "4"], [([3, 4], [7]), ([6], [1])])
    assert len(dataset.skipped) == len(warned) == 4
    assert "2.pt holds ids below 0 or from 2147483648 on" in dataset.skipped[1] and warned[0].filename == __file__
