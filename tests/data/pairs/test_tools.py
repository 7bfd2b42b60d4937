"""Folders of pairs merged, split, deduplicated, counted: what comes out, what is refused."""

import json
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spear_tts_pytorch.data.pairs import GeneratedAudioTextDataset, PairWriter, list_shards
from spear_tts_pytorch.data.pairs import tools as pair_tools
from spear_tts_pytorch.data.pairs.shards import read_shard
from spear_tts_pytorch.data.pairs.tools import deduplicate, merge, split, stats


def fill(folder, rows, **options):
    """Writes (id, semantic ids, text ids) rows; each scored by its number."""
    options = {"num_semantic_token_ids": 20, "num_text_token_ids": 30, "rows_per_shard": 3, **options}
    with PairWriter(folder, **options) as writer:
        for number, (name, semantic_ids, text_ids) in enumerate(rows):
            writer.write(name, semantic_ids, text_ids, score=-float(number))
    return folder


def rows_of(folder):
    dataset = GeneratedAudioTextDataset(folder, columns=("id", "semantic_ids", "text_ids"))
    return [(name, semantic_ids.tolist(), text_ids.tolist()) for name, semantic_ids, text_ids in dataset]


def numbered(start, stop):
    return [(f"u{n}", [n % 20] * (n % 4), [1 + n % 29]) for n in range(start, stop)]


def counts(folder):
    return json.loads((folder / "dataset.json").read_text())["counts"]


def nothing_but(folder, *names):
    return sorted(path.name for path in folder.iterdir()) == sorted(names)


def test_merge(tmp_path):
    one, two = (
        fill(tmp_path / "1", numbered(0, 7), model_hash="x"),
        fill(tmp_path / "2", numbered(7, 12), model_hash="x"),
    )
    assert merge([one, two], tmp_path / "all") == {"pairs": 12, "removed": 0}
    assert rows_of(tmp_path / "all") == numbered(0, 12)
    shards = list_shards(tmp_path / "all")
    assert [path.name for path in shards] == [f"pairs-00000-{n:06d}.parquet" for n in range(5)]
    assert [path.read_bytes() for path in shards] == [
        path.read_bytes() for folder in (one, two) for path in list_shards(folder)
    ]
    description = json.loads((tmp_path / "all" / "dataset.json").read_text())
    assert description["counts"] == {"pairs": 12, "shards": 5} and description["model_hash"] == "x"
    with pytest.raises(FileExistsError, match="all exists already"):
        merge([one], tmp_path / "all")
    assert nothing_but(tmp_path, "1", "2", "all")


def test_merge_of_what_comes_twice(tmp_path):
    one, two = fill(tmp_path / "1", numbered(0, 7)), fill(tmp_path / "2", [("u2", [19], [29]), *numbered(7, 12)])
    with pytest.raises(ValueError, match=r"the id 'u2' comes twice, the second time in .*2/pairs-00000-000000.parquet"):
        merge([one, two], tmp_path / "all")
    assert nothing_but(tmp_path, "1", "2")  # whole or nothing
    assert merge([one, two], tmp_path / "all", duplicates="drop") == {"pairs": 12, "removed": 1}
    assert rows_of(tmp_path / "all") == numbered(0, 12)
    with pytest.raises(ValueError, match="duplicates must be"):
        merge([one], tmp_path / "3", duplicates="keep")
    with pytest.raises(ValueError, match="folders is empty"):
        merge([], tmp_path / "3")


def test_merge_of_ids_of_several_tokenizers(tmp_path):
    unknown = fill(tmp_path / "1", numbered(0, 3))
    one = fill(tmp_path / "2", numbered(3, 6), semantic_tokenizer="one")
    other = fill(tmp_path / "3", numbered(6, 9), semantic_tokenizer="other")
    for mixed in (False, True):
        with pytest.raises(ValueError, match="semantic_tokenizer is 'one' there and 'other' here"):
            merge([unknown, one, other], tmp_path / "all", mixed=mixed)
    merge([unknown, one], tmp_path / "all")
    assert json.loads((tmp_path / "all" / "dataset.json").read_text())["semantic_tokenizer"] == "one"


def test_merge_of_other_kinds(tmp_path):
    one = fill(tmp_path / "1", numbered(0, 3), model_hash="x", options={"beam_size": 4})
    real, other = fill(tmp_path / "2", numbered(3, 6)), fill(tmp_path / "3", numbered(6, 9), num_text_token_ids=31)
    with pytest.raises(ValueError, match=r"2 holds pairs of another kind than .*model_hash is 'x' there.*mixed=True"):
        merge([one, real], tmp_path / "all")
    for mixed in (False, True):
        with pytest.raises(ValueError, match="num_text_token_ids is 30 there and 31 here.*keep them apart"):
            merge([one, other], tmp_path / "all", mixed=mixed)
    merge([one, real, one, real], tmp_path / "all", mixed=True, duplicates="drop")
    assert rows_of(tmp_path / "all") == numbered(0, 6)
    description = json.loads((tmp_path / "all" / "dataset.json").read_text())
    assert description["model_hash"] is None
    assert description["options"]["origins"] == [
        {"model_hash": "x", "options": {"beam_size": 4}},
        {"model_hash": None, "options": {}},
    ]


def test_deduplicate(tmp_path):
    rows = [
        ("a", [1], [2]),
        ("b", [1], [2]),  # contents of a
        ("a", [3], [4]),  # id of a
        ("c", [], [1, 2]),  # the same ids one after the other, but divided otherwise
        ("d", [1], [2]),
        ("e", [1, 2], []),
        ("f", [5], [6]),
    ]
    fill(tmp_path / "p", rows)
    assert deduplicate(tmp_path / "p", tmp_path / "id") == {"pairs": 6, "removed": 1}
    assert rows_of(tmp_path / "id") == [row for index, row in enumerate(rows) if index != 2]
    assert deduplicate(tmp_path / "p", tmp_path / "contents", by="contents") == {"pairs": 5, "removed": 2}
    assert rows_of(tmp_path / "contents") == [row for index, row in enumerate(rows) if index not in (1, 4)]
    assert counts(tmp_path / "contents") == {"pairs": 5, "shards": 3}
    scores = GeneratedAudioTextDataset(tmp_path / "contents").column("score")
    assert scores == [0.0, -2.0, -3.0, -5.0, -6.0]  # whole rows move
    with pytest.raises(ValueError, match="by must be one of id, contents, got 'text'"):
        deduplicate(tmp_path / "p", tmp_path / "text", by="text")


def test_split_by_shares(tmp_path):
    fill(tmp_path / "p", numbered(0, 50), unique_consecutive=True)
    parts = {"train": 0.8, "valid": 0.1, "test": 0.1}
    assert split(tmp_path / "p", tmp_path / "s", parts, seed=1) == {"train": 40, "valid": 5, "test": 5}
    found = {name: rows_of(tmp_path / "s" / name) for name in parts}
    assert sorted(sum(found.values(), [])) == sorted(numbered(0, 50))
    for name, rows in found.items():
        assert rows == sorted(rows, key=lambda row: int(row[0][1:]))  # the order that they had
        assert counts(tmp_path / "s" / name)["pairs"] == len(rows)
        assert GeneratedAudioTextDataset(tmp_path / "s" / name).metadata["unique_consecutive"] is True
    split(tmp_path / "p", tmp_path / "again", parts, seed=1)
    split(tmp_path / "p", tmp_path / "other", parts, seed=2)
    assert rows_of(tmp_path / "again" / "valid") == found["valid"] != rows_of(tmp_path / "other" / "valid")


def test_split_by_counts(tmp_path):
    fill(tmp_path / "p", numbered(0, 50))
    assert split(tmp_path / "p", tmp_path / "s", {"a": 30, "b": 7}, rows_per_shard=4) == {"a": 30, "b": 7}
    a, b = rows_of(tmp_path / "s" / "a"), rows_of(tmp_path / "s" / "b")
    assert (len(a), len(b), len({row[0] for row in a + b})) == (30, 7, 37)
    assert [pq.read_metadata(path).num_rows for path in list_shards(tmp_path / "s" / "b")] == [4, 3]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "parts must be"),
        ({"a": 0.5, "b": 2}, "parts must be shares .* or numbers"),
        ({"a": -0.5}, "above 0"),
        ({"a": 0.7, "b": 0.4}, "add up to 1 or less, got 1.1"),
        ({"a": 5, "b": 6}, "cannot be made of 10 pairs"),
        ({"a": 0.01, "b": 0.9}, "cannot be made of 10 pairs"),
        ({"../a": 5}, "'../a' is no name of a folder"),
    ],
)
def test_wrong_parts(tmp_path, parts, message):
    fill(tmp_path / "p", numbered(0, 10))
    with pytest.raises(ValueError, match=message):
        split(tmp_path / "p", tmp_path / "s", parts)
    assert nothing_but(tmp_path, "p")


def test_stats(tmp_path):
    rows = [("a", [1] * 10, [1]), ("b", [2] * 20, [1] * 3), ("a", [3] * 30, []), ("c", [4] * 40, [2] * 4)]
    fill(tmp_path, rows)
    with PairWriter(tmp_path, num_semantic_token_ids=20, num_text_token_ids=30) as writer:
        writer.write("d", [5] * 100, [6] * 2, source="real")
    found = stats(tmp_path, ids_per_second=25)
    assert (found["pairs"], found["shards"], found["semantic_ids"], found["text_ids"]) == (5, 3, 200, 10)
    assert found["hours"] == pytest.approx(200 / 25 / 3600) and stats(tmp_path)["hours"] is None
    assert found["bytes"] == sum(path.stat().st_size for path in list_shards(tmp_path))
    assert found["sources"] == {"generated": 4, "real": 1}
    assert (found["repeated_ids"], found["without_score"], found["broken"]) == (1, 1, [])
    assert {q: found["semantic_lengths"][q] for q in ("0", "0.5", "1")} == {"0": 10, "0.5": 30, "1": 100}
    assert found["text_lengths"]["0.25"] == 1 and found["scores"]["1"] == 0
    list_shards(tmp_path)[0].write_bytes(b"PAR1")
    found = stats(tmp_path)
    assert found["pairs"] == 2 and len(found["broken"]) == 1 and "pairs-00000-000000.parquet" in found["broken"][0]
    table = read_shard(list_shards(tmp_path)[2])
    wrong = pa.array([[20]], table.schema.field("semantic_ids").type)
    pq.write_table(table.set_column(1, "semantic_ids", wrong), list_shards(tmp_path)[2])
    assert "the pair 'd' in" in stats(tmp_path)["broken"][1]
    with pytest.raises(FileNotFoundError, match="no pairs in .*nowhere"):
        stats(tmp_path / "nowhere")


def test_a_broken_shard_stops_the_tools_and_leaves_nothing(tmp_path):
    fill(tmp_path / "p", numbered(0, 10))
    shard = list_shards(tmp_path / "p")[2]
    shard.write_bytes(shard.read_bytes()[:-20])
    for tool in (
        lambda: merge([tmp_path / "p"], tmp_path / "out"),
        lambda: deduplicate(tmp_path / "p", tmp_path / "out"),
        lambda: split(tmp_path / "p", tmp_path / "out", {"a": 3}),
    ):
        with pytest.raises(ValueError, match=f"{shard.name} is not a readable shard"):
            tool()
        assert nothing_but(tmp_path, "p")


def test_an_error_while_writing_leaves_nothing(tmp_path, monkeypatch):
    fill(tmp_path / "p", numbered(0, 10))

    def full(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pair_tools, "update_counts", full)  # the last step
    for tool in (lambda out: merge([tmp_path / "p"], out), lambda out: split(tmp_path / "p", out, {"a": 3})):
        with pytest.raises(OSError, match="No space left"):
            tool(tmp_path / "out")
        assert nothing_but(tmp_path, "p")


def test_shards_of_wider_types_are_written_anew(tmp_path):
    fill(tmp_path / "p", numbered(0, 3))
    (shard,) = list_shards(tmp_path / "p")
    table = read_shard(shard)
    wide = table.set_column(1, "semantic_ids", table["semantic_ids"].cast(pa.large_list(pa.int64())))
    pq.write_table(wide, shard)
    merge([tmp_path / "p"], tmp_path / "out")
    assert read_shard(list_shards(tmp_path / "out")[0]).equals(table)
    assert pq.read_schema(list_shards(tmp_path / "out")[0]).equals(table.schema)


def test_equal_rows_are_found_among_many():
    """Against the plain way, with many equal rows."""
    hashes = np.random.default_rng(0).integers(0, 40, (1000, 2)).astype(np.uint64)
    seen, expected = set(), []
    for pair in map(tuple, hashes.tolist()):
        expected.append(pair not in seen)
        seen.add(pair)
    assert pair_tools._firsts([hashes[:300], hashes[300:]]).tolist() == expected


def test_one_shard_is_in_memory_at_a_time(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    with PairWriter(tmp_path / "p", rows_per_shard=100) as writer:
        for shard in range(20):  # of 1 MB each
            rows = list(random.integers(0, 500, (100, 2500)))
            writer.write_many([f"{shard}-{n}" for n in range(100)], rows, [[1]] * 100)
    del rows
    allocated = []

    def watched(*arguments):
        allocated.append(pa.total_allocated_bytes())
        return read_shard(*arguments)

    monkeypatch.setattr(pair_tools, "read_shard", watched)
    tracemalloc.start()
    deduplicate(tmp_path / "p", tmp_path / "out", by="contents")
    split(tmp_path / "p", tmp_path / "parts", {"a": 0.5, "b": 0.5}, rows_per_shard=50)
    stats(tmp_path / "p")
    peak = tracemalloc.get_traced_memory()[1]  # of NumPy and bytes; Arrow counts its own
    tracemalloc.stop()
    assert len(allocated) == 60
    assert peak < 6e6 and max(allocated) - allocated[0] < 6e6
