"""The format of shards: columns, and the rows that other packages read in a folder or write into it."""

import json

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pair_rows import ROWS, as_lists, fill, row, write_rows

from spear_tts_pytorch.data.pairs import GeneratedAudioTextDataset, list_shards
from spear_tts_pytorch.data.pairs.cache import CACHE_NAME
from spear_tts_pytorch.data.pairs.shards import COLUMNS


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


def test_shards_of_other_tools_with_wider_types(tmp_path, mapped):
    polars = pytest.importorskip("polars")
    columns = {"id": ["a", "b"], "semantic_ids": [[1, 2], []], "text_ids": [[3], [4, 5]]}
    frame = polars.DataFrame({**columns, "text": ["x", None], "score": [None, -0.5], "source": ["real", "real"]})
    frame.write_parquet(tmp_path / "pairs-00000-000000.parquet")
    dataset = GeneratedAudioTextDataset(tmp_path)
    assert as_lists(dataset) == [([1, 2], [3]), ([], [4, 5])]
    assert dataset.column("score") == [None, -0.5]


@pytest.fixture
def store(tmp_path, mapped):
    """A folder with all that may lie in it."""
    fill(tmp_path / "store")
    assert len(GeneratedAudioTextDataset(tmp_path / "store").lengths) == 40
    assert sorted(path.name for path in (tmp_path / "store").iterdir() if path.suffix != ".parquet") == [
        CACHE_NAME,
        "dataset.json",
    ]
    return tmp_path / "store"


def same_rows(columns):
    """Whether id, ids and score are those written."""
    assert list(columns["id"]) == [f"u{number}" for number in range(40)]
    for name, part in (("semantic_ids", 0), ("text_ids", 1)):
        assert [list(ids) for ids in columns[name]] == [row(number)[part] for number in range(40)]
    assert columns["score"][8] == pytest.approx(-0.8)


def test_pandas_reads_the_folder(store):
    pandas = pytest.importorskip("pandas")
    same_rows(pandas.read_parquet(store, ignore_prefixes=[".", "_", "dataset"]))


def test_pyarrow_reads_the_folder(store):
    dataset = pytest.importorskip("pyarrow.dataset")
    ignored = [".", "_", "dataset"]
    found = dataset.dataset(store, format="parquet", ignore_prefixes=ignored).to_table()
    assert found.column_names == list(COLUMNS)
    same_rows(found.to_pydict())
    same_rows(pq.read_table(store, ignore_prefixes=ignored).to_pydict())


def test_polars_reads_the_folder(store):
    polars = pytest.importorskip("polars")
    same_rows(polars.read_parquet(store / "*.parquet").to_dict(as_series=False))


def test_duckdb_reads_the_folder(store):
    duckdb = pytest.importorskip("duckdb")
    found = duckdb.sql(f"select * from read_parquet('{store}/*.parquet')")
    rows = found.fetchall()
    same_rows(dict(zip(found.columns, zip(*rows, strict=True), strict=True)))


def test_hf_datasets_read_the_folder(store, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    found = datasets.load_dataset("parquet", data_files=f"{store}/*.parquet", cache_dir=str(tmp_path / "hf"))
    same_rows(found["train"][:])
