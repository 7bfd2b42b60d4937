"""Folders of pairs that are damaged: descriptions and shards are refused by name."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spear_tts_pytorch.data.pairs import GeneratedAudioTextDataset, PairWriter, write_pairs

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


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"semantic_ids": [[1], [1, None]]}, r"row 1 .*'semantic_ids' holds null"),
        ({"text_ids": [None, [1]]}, r"row 0 .*'text_ids' holds null"),
        ({"text_ids": [[1.0], [2.0, 1.7]]}, r"row 1 .*'text_ids' holds 1\.7"),
        ({"id": [None, "b"]}, r"row 0 .*'id' holds null"),
    ],
)
def test_null_and_numbers_that_are_not_whole_are_refused_by_file_row_and_column(tmp_path, columns, words):
    write_pairs(tmp_path, [([1], [1]), ([2], [2])], num_semantic_token_ids=5, num_text_token_ids=5)
    (shard,) = tmp_path.glob("pairs-*.parquet")
    table = pq.read_table(shard)
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(column))
    pq.write_table(table, shard)
    with pytest.raises(ValueError, match=rf"pairs-00000-000000\.parquet .*{words}"):
        GeneratedAudioTextDataset(tmp_path, columns=("id", "semantic_ids", "text_ids"))[0]
    with pytest.raises(ValueError, match=words), PairWriter(tmp_path / "other") as writer:
        writer.write_table(table)
