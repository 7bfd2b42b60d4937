"""Reading the store of pairs: random access, filters, damage, workers, what other readers see."""

import os
import pickle
import warnings
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pair_rows import as_lists, fill, row
from torch.utils.data import ConcatDataset, DataLoader

from spear_tts_pytorch.data.pairs import GeneratedAudioTextDataset, PairWriter, list_shards
from spear_tts_pytorch.data.pairs import dataset as pairs_module
from spear_tts_pytorch.data.pairs.cache import CACHE_NAME
from spear_tts_pytorch.data.pairs.shards import COLUMNS, pair_schema, read_shard

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


@pytest.fixture
def mapped(monkeypatch):
    """Every folder counts as large: shards are decoded to files."""
    monkeypatch.setattr(pairs_module, "IN_MEMORY_IDS", 0)


def decoded(folder):
    return sorted(path.name for path in (folder / CACHE_NAME).glob("*"))


def test_large_folders_are_mapped_and_small_ones_are_not(tmp_path, monkeypatch):
    expected = [row(number) for number in range(40)]
    dataset = GeneratedAudioTextDataset(fill(tmp_path))
    assert as_lists(dataset) == expected
    assert not (tmp_path / CACHE_NAME).exists()
    monkeypatch.setattr(pairs_module, "IN_MEMORY_IDS", 0)
    dataset = GeneratedAudioTextDataset(tmp_path)
    assert not (tmp_path / CACHE_NAME).exists()  # opening decodes nothing
    assert dataset[39][0].tolist() == expected[39][0]
    assert [name.split(".")[0] for name in decoded(tmp_path)] == ["pairs-00000-000005"]
    assert as_lists(dataset) == expected
    assert dataset.lengths.tolist() == [[len(part) for part in pair] for pair in expected]
    assert len(decoded(tmp_path)) == len(list_shards(tmp_path)) == 6
    dataset[5][0].fill_(0)  # items are copies
    assert as_lists(dataset) == as_lists(GeneratedAudioTextDataset(tmp_path)) == expected


def test_ids_beyond_16_bits(tmp_path, mapped):
    rows = [([70_000, 0, 2**31 - 1], [1]), ([], [65_535, 65_536])]
    with PairWriter(tmp_path) as writer:
        for number, pair in enumerate(rows):
            writer.write(str(number), *pair)
    assert as_lists(GeneratedAudioTextDataset(tmp_path)) == rows


def test_mapped_shards_hold_no_descriptor(tmp_path, mapped):
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("/proc is of Linux")
    dataset = GeneratedAudioTextDataset(fill(tmp_path, rows_per_shard=1))
    as_lists(dataset)  # imports and thread pools may open some, once
    before = len(os.listdir("/proc/self/fd"))
    again = GeneratedAudioTextDataset(tmp_path)
    assert len(as_lists(again)) == 40
    assert len(os.listdir("/proc/self/fd")) < before + 5


@pytest.mark.parametrize("content", [b"half", b""])
def test_changed_and_broken_files_are_decoded_again(tmp_path, mapped, content):
    fill(tmp_path, rows=14)
    assert len(as_lists(GeneratedAudioTextDataset(tmp_path))) == 14
    first, second = list_shards(tmp_path)
    before = decoded(tmp_path)
    pq.write_table(read_shard(second), first)  # the same rows, but other bytes
    (tmp_path / CACHE_NAME / before[1]).write_bytes(content)
    dataset = GeneratedAudioTextDataset(tmp_path)
    assert as_lists(dataset) == [row(number) for number in range(7, 14)] * 2
    after = decoded(tmp_path)
    assert after[0] != before[0] and after[1] == before[1] and len(after) == 2  # what is stale is gone
    first.unlink()
    pq.write_table(read_shard(second).slice(1), second)
    assert as_lists(GeneratedAudioTextDataset(tmp_path)) == [row(number) for number in range(8, 14)]
    assert len(decoded(tmp_path)) == 1


def test_folders_that_cannot_be_written_to(tmp_path, mapped, monkeypatch):
    folder = fill(tmp_path / "pairs")
    (folder / CACHE_NAME).write_text("a file where the folder would be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert as_lists(GeneratedAudioTextDataset(folder)) == [row(number) for number in range(40)]
    assert len(list((tmp_path / "cache").rglob("*.arrow"))) == 6
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / CACHE_NAME))
    dataset = GeneratedAudioTextDataset(folder)
    with pytest.raises(OSError, match="cannot be decoded .* cache_folder"):
        dataset[0]
    elsewhere = GeneratedAudioTextDataset(folder, cache_folder=tmp_path / "elsewhere")
    assert len(as_lists(elsewhere)) == 40 and len(list((tmp_path / "elsewhere").rglob("*.arrow"))) == 6
    fill(tmp_path / "other", rows=3)
    assert len(as_lists(GeneratedAudioTextDataset(tmp_path / "other", cache_folder=tmp_path / "elsewhere"))) == 3
    assert len(list((tmp_path / "elsewhere").rglob("*.arrow"))) == 7  # each folder has its own


def read_all(folder):
    if as_lists(GeneratedAudioTextDataset(folder)) != [row(number) for number in range(40)]:
        os._exit(1)


@needs_fork
def test_processes_may_decode_at_once(tmp_path, mapped):
    fill(tmp_path)
    readers = [get_context("fork").Process(target=read_all, args=(tmp_path,)) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    assert [reader.exitcode for reader in readers] == [0] * 4
    assert len(list((tmp_path / CACHE_NAME).iterdir())) == 6


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
    with pytest.raises(ValueError, match="no pair that passes the filters, of 40"):
        kept(min_score=1.0)
    with pytest.raises(ValueError, match="score_quantile must be from 0 to 1, got 20"):
        kept(score_quantile=20)


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
    with pytest.raises(ValueError, match="on_error must be 'raise' or 'skip', got 'ignore'"):
        GeneratedAudioTextDataset(tmp_path, on_error="ignore")


@pytest.mark.parametrize(
    "name,value", [("semantic_ids", 500), ("semantic_ids", -1), ("text_ids", 0), ("text_ids", None)]
)
def test_ids_out_of_range_in_a_store_are_named(tmp_path, mapped, name, value):
    fill(tmp_path, rows=14)
    shard = list_shards(tmp_path)[1]
    rows = read_shard(shard).to_pylist()
    rows[3][name] = [1, value]
    pq.write_table(pa.Table.from_pylist(rows, schema=pair_schema()), shard)
    dataset = GeneratedAudioTextDataset(tmp_path)
    held = "nan" if value is None else value
    with pytest.raises(ValueError, match=f"{name} of the pair 'u10' in .*{shard.name} holds {held}, ids are"):
        dataset[7]
    assert len(decoded(tmp_path)) == 0
    with pytest.warns(UserWarning, match="u10"):
        assert len(GeneratedAudioTextDataset(tmp_path, on_error="skip")) == 7


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


def test_a_folder_without_rows(tmp_path):
    pq.write_table(pair_schema().empty_table(), tmp_path / "pairs-00000-000000.parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = GeneratedAudioTextDataset(tmp_path, cache_folder=tmp_path / "cache")
        assert len(dataset) == 0 and dataset.lengths.shape == (0, 2) and dataset.ids == []
