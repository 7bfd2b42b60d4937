"""Pairs as a dataset: items, columns, filters, damaged shards, workers and copies."""

import pickle
import warnings

import pyarrow.parquet as pq
import pytest
import torch
from pair_rows import ROWS, as_lists, fill, row, write_rows
from torch.utils.data import ConcatDataset, DataLoader

from spear_tts_pytorch.data.pairs import GeneratedAudioTextDataset, MockDataset, list_shards
from spear_tts_pytorch.data.pairs.shards import pair_schema


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


def test_mock_dataset():
    dataset = MockDataset(3)
    assert len(dataset) == 3 and dataset[2].shape == (1024,) and len(list(dataset)) == 3


@pytest.mark.parametrize("cache", [True, False])
def test_columns_on_request(tmp_path, cache):
    options = {"cache_folder": tmp_path / "cache"} if cache else {}
    dataset = GeneratedAudioTextDataset(fill(tmp_path / "p"), columns=("id", "score", "text_ids", "source"), **options)
    name, score, text_ids, source = dataset[8]
    assert (name, source, text_ids.tolist()) == ("u8", "generated", row(8)[1])
    assert score == pytest.approx(-0.8) and dataset[9][1] is None
    with pytest.raises(ValueError, match="columns must be of id, .*'sound'"):
        GeneratedAudioTextDataset(tmp_path / "p", columns=("sound",))


def test_filters(tmp_path):
    fill(tmp_path)
    numbers = list(range(40))
    scored = [number for number in numbers if number % 10 != 9]

    def kept(**options):
        dataset = GeneratedAudioTextDataset(tmp_path, **options)
        found = [int(name[1:]) for name in dataset.ids]
        assert as_lists(dataset) == [row(number) for number in found]
        assert dataset.lengths.tolist() == [[len(part) for part in row(number)] for number in found]
        assert dataset.column("text") == [f"text {number}" for number in found]
        return found

    assert kept(min_score=-2.05) == [number for number in scored if number <= 20]
    assert kept(score_quantile=0.5) == scored[: len(scored) // 2]
    assert kept(score_quantile=0.0) == scored
    assert kept(semantic_lengths=(3, 5)) == [number for number in numbers if 3 <= number % 13 <= 5]
    assert kept(text_lengths=(1, None)) == [number for number in numbers if number % 5]
    assert kept(ids={"u3", "u30", "other"}) == [3, 30]
    assert kept(ids={f"u{n}" for n in range(20)}, text_lengths=(None, 0), min_score=-1.2) == [0, 5, 10]
    with pytest.raises(ValueError, match="no pair that passes min_score, of 40"):
        kept(min_score=1.0)
    with pytest.raises(ValueError, match="score_quantile must be at least 0 and at most 1, got 20"):
        kept(score_quantile=20)


def test_damaged_shards_are_named_and_can_be_left_out(tmp_path):
    fill(tmp_path, rows=28)
    cut, overwritten = list_shards(tmp_path)[1:3]
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"{cut.name} is not a readable shard .*on_error='skip'"):
        GeneratedAudioTextDataset(tmp_path)
    data = bytearray(overwritten.read_bytes())
    data[100:400] = bytes(300)  # the end, which opening reads, is whole
    overwritten.write_bytes(data)
    with pytest.warns(UserWarning, match="left out") as caught:
        dataset = GeneratedAudioTextDataset(tmp_path, on_error="skip")
    assert len(caught) == len(dataset.skipped) == 2
    assert as_lists(dataset) == [row(number) for number in [*range(7), *range(21, 28)]]
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=f"no shard of .*{cut.name}"):
        (tmp_path / "2").mkdir()
        (tmp_path / "2" / cut.name).write_bytes(cut.read_bytes())
        GeneratedAudioTextDataset(tmp_path / "2", on_error="skip")
    cut.unlink()
    dataset = GeneratedAudioTextDataset(tmp_path)
    assert dataset[0][0].tolist() == row(0)[0]
    with pytest.raises(ValueError, match=f"{overwritten.name} is not a readable shard"):
        dataset[7]
    with pytest.raises(ValueError, match="on_error must be one of raise, skip, got 'ignore'"):
        GeneratedAudioTextDataset(tmp_path, on_error="ignore")


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_copies_and_concatenation(tmp_path, mapped, workers):
    one, two = (
        GeneratedAudioTextDataset(fill(tmp_path / "1")),
        GeneratedAudioTextDataset(fill(tmp_path / "2", start=40)),
    )
    both = ConcatDataset([one, two])
    assert len(as_lists(one)) == 40
    copied = pickle.loads(pickle.dumps(both))
    assert len(pickle.dumps(one)) < 5_000  # not what is mapped
    loaded = list(DataLoader(copied, batch_size=None, num_workers=workers))
    assert [tuple(part.tolist() for part in pair) for pair in loaded] == [row(number) for number in range(80)]


def test_a_folder_without_rows(tmp_path):
    pq.write_table(pair_schema().empty_table(), tmp_path / "pairs-00000-000000.parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = GeneratedAudioTextDataset(tmp_path, cache_folder=tmp_path / "cache")
        assert len(dataset) == 0 and dataset.lengths.shape == (0, 2) and dataset.ids == []
