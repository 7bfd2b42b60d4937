"""Folders of pairs that are damaged: descriptions and shards are refused by name."""

import json

import pytest

from spear_tts_pytorch.data.pairs import GeneratedAudioTextDataset, write_pairs

DESCRIPTIONS = {
    "a version in words": '{"format_version": "2"}',
    "no version": '{"format_version": null}',
    "a vocabulary in words": '{"format_version": 1, "num_semantic_token_ids": "5"}',
    "options that are a list": '{"format_version": 1, "options": [1]}',
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_a_description_that_is_damaged(tmp_path, name):
    write_pairs(tmp_path, [([1], [1])], num_semantic_token_ids=5, num_text_token_ids=5)
    (tmp_path / "dataset.json").write_text(DESCRIPTIONS[name])
    with pytest.raises(ValueError, match="dataset.json.*restore or remove it"):
        GeneratedAudioTextDataset(tmp_path)


@pytest.mark.slow
def test_a_row_of_very_many_ids(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_pairs(tmp_path, [([1], [1])], num_semantic_token_ids=5, num_text_token_ids=5)
    (shard,) = tmp_path.glob("pairs-*.parquet")
    table = pq.read_table(shard)
    count = 40_000_000
    ids = pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), pa.repeat(pa.scalar(1, pa.int32()), count))
    pq.write_table(table.set_column(1, "semantic_ids", ids), shard, compression="zstd")
    assert shard.stat().st_size < 2**20
    with pytest.raises(ValueError, match="pairs-00000-000000.parquet.*far more values"):
        GeneratedAudioTextDataset(tmp_path)
    assert json.loads((tmp_path / "dataset.json").read_text())["format_version"] == 1
