"""Pairs on disk: round trip, what other readers see, wholeness, folders of release 0.4.8, bad input."""

import json

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from spear_tts_pytorch.data.pairs import GeneratedAudioTextDataset, MockDataset, PairWriter, list_shards, write_pairs
from spear_tts_pytorch.utils.files import write_whole

ROWS = [([3, 4, 4, 19], [1, 2]), ([0], []), ([7] * 9, [29, 1, 1])]


def write_rows(folder, rows=ROWS, **options):
    options = {"num_semantic_token_ids": 20, "num_text_token_ids": 30, **options}
    with PairWriter(folder, **options) as writer:
        for index, (semantic_ids, text_ids) in enumerate(rows):
            writer.write(f"utt{index}", torch.tensor(semantic_ids), text_ids, text="ab", score=-0.5 * index)


def as_lists(dataset):
    return [(semantic.tolist(), text.tolist()) for semantic, text in (dataset[i] for i in range(len(dataset)))]


@pytest.mark.parametrize("rows_per_shard", [1, 2, 100])
def test_round_trip(tmp_path, rows_per_shard):
    write_rows(tmp_path, rows_per_shard=rows_per_shard)
    dataset = GeneratedAudioTextDataset(tmp_path)
    assert as_lists(dataset) == ROWS
    assert all(part.dtype == torch.int64 for part in dataset[0])
    assert dataset[-1][0].tolist() == ROWS[-1][0]
    assert dataset.lengths.tolist() == [[4, 2], [1, 0], [9, 3]]
    assert dataset.ids == ["utt0", "utt1", "utt2"]
    assert dataset.column("score") == [0.0, -0.5, -1.0]
    assert repr(dataset) == f"GeneratedAudioTextDataset(3 pairs in {tmp_path},\n    20 semantic ids, 30 text ids)"
    with pytest.raises(IndexError):
        dataset[3]


def test_other_readers_see_the_documented_columns(tmp_path):
    write_rows(tmp_path)
    (shard,) = list_shards(tmp_path)
    assert shard.name == "pairs-00000-000000.parquet"
    assert pq.read_schema(shard).names == ["id", "semantic_ids", "text_ids", "text", "score", "source"]
    assert pq.read_schema(shard).field("semantic_ids").type == pa.list_(pa.int32())
    assert pq.ParquetFile(shard).metadata.row_group(0).column(0).compression == "ZSTD"
    frame = pandas.read_parquet(shard)
    assert frame["semantic_ids"][2].tolist() == ROWS[2][0] and frame["text"][0] == "ab"
    assert frame["score"].dtype == np.float32
    description = json.loads((tmp_path / "dataset.json").read_text())
    assert description["counts"] == {"pairs": 3, "shards": 1}
    assert description["num_semantic_token_ids"] == 20 and description["pad_id"] == {"speech": -1, "text": 0}


def test_writing_goes_on_and_ranks_stay_apart(tmp_path):
    write_rows(tmp_path)
    before = list_shards(tmp_path)[0].read_bytes()
    write_rows(tmp_path)
    write_rows(tmp_path, rank=1)
    names = [path.name for path in list_shards(tmp_path)]
    assert names == ["pairs-00000-000000.parquet", "pairs-00000-000001.parquet", "pairs-00001-000000.parquet"]
    assert list_shards(tmp_path)[0].read_bytes() == before
    assert as_lists(GeneratedAudioTextDataset(tmp_path)) == ROWS * 3


def test_pairs_before_an_error_are_kept(tmp_path):
    with pytest.raises(RuntimeError, match="power"):
        with PairWriter(tmp_path, num_semantic_token_ids=20, num_text_token_ids=30) as writer:
            writer.write("a", [1], [2])
            raise RuntimeError("power")
    assert as_lists(GeneratedAudioTextDataset(tmp_path)) == [([1], [2])]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    write_whole(tmp_path / "a", b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="space"):
        write_whole(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_ids_are_checked_when_written(tmp_path):
    writer = PairWriter(tmp_path, num_semantic_token_ids=20, num_text_token_ids=30)
    for semantic_ids, text_ids, message in [
        ([20], [1], "semantic_ids of the pair 'x' holds 20"),
        ([-1], [1], "holds -1"),
        ([1], [0], "text_ids of the pair 'x' holds 0"),
        ([1], [30], "holds 30"),
        ([[1]], [1], r"integers \[n\]"),
        ([0.5], [1], r"integers \[n\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            writer.write("x", semantic_ids, text_ids)


def test_pairs_of_another_kind_are_refused(tmp_path):
    write_rows(tmp_path, unique_consecutive=True)
    for changed in ({"unique_consecutive": False}, {"num_text_token_ids": 31}, {"options": {"beam_size": 4}}):
        with pytest.raises(ValueError, match=f"{next(iter(changed.get('options', changed)))} is"):
            write_rows(tmp_path, **{"unique_consecutive": True, **changed})
    assert len(GeneratedAudioTextDataset(tmp_path)) == 3


def test_folders_without_pairs(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder of pairs"):
        GeneratedAudioTextDataset(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="no pairs in"):
        GeneratedAudioTextDataset(str(tmp_path))


def test_a_shard_cut_in_half_is_named(tmp_path):
    write_rows(tmp_path, rows_per_shard=1)
    shard = list_shards(tmp_path)[1]
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{shard.name} is not a readable shard"):
        GeneratedAudioTextDataset(tmp_path)


def test_write_pairs(tmp_path):
    pairs = [(torch.tensor(semantic), torch.tensor(text, dtype=torch.int32)) for semantic, text in ROWS]
    write_pairs(tmp_path, pairs, ids=["a", "b", "c"], texts=["x", None, "z"], num_text_token_ids=30)
    dataset = GeneratedAudioTextDataset(tmp_path)
    assert as_lists(dataset) == ROWS
    assert (dataset.ids, dataset.column("text")) == (["a", "b", "c"], ["x", None, "z"])
    assert dataset.column("source") == ["real"] * 3


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


def test_mock_dataset():
    dataset = MockDataset(3)
    assert len(dataset) == 3 and dataset[2].shape == (1024,) and len(list(dataset)) == 3


def test_ids_and_texts_are_one_for_each_pair(tmp_path):
    pairs = [([1, 2], [3])] * 2
    for name in ("ids", "texts"):
        with pytest.raises(ValueError, match=f"{name} has fewer entries than there are pairs"):
            write_pairs(tmp_path / name, pairs, **{name: ["one"]})
    write_pairs(tmp_path / "numbers", pairs, ids=[7, 8])
    assert GeneratedAudioTextDataset(tmp_path / "numbers", ids=[8], columns="id")[0] == ("8",)
