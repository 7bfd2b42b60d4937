"""Writing pairs: what is checked, kills, full disks, bounds of shards, many rows at once, ids that come twice."""

import itertools
import json
import os
import random
import signal
import time
from multiprocessing import get_context

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pair_rows import ROWS, as_lists, fill, needs_fork, row, write_rows

from spear_tts_pytorch.data.pairs import GeneratedAudioTextDataset, PairWriter, list_shards, write_pairs
from spear_tts_pytorch.data.pairs.shards import read_footer, read_shard
from spear_tts_pytorch.utils.files import beside


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


BAD_ROWS = [
    (dict(id="caf\udce9"), ValueError, "id of the pair .* is no Unicode text"),
    (dict(text="\ud800"), ValueError, "text of the pair 'bad' is no Unicode text"),
    (dict(source="\udce9"), ValueError, "source of the pair .* is no Unicode text"),
    (dict(text=b"x"), TypeError, "text of the pair 'bad' must be a text, got b'x'"),
    (dict(score="high"), TypeError, "score of the pair 'bad' must be a number or None, got 'high'"),
    (dict(text_ids=["a"]), ValueError, r"text_ids of the pair 'bad' must be integers \[n\]"),
    (dict(text_ids=None), ValueError, r"text_ids of the pair 'bad' must be integers \[n\]"),
    (dict(text_ids=[1, [2]]), ValueError, r"text_ids of the pair 'bad' must be integers \[n\]"),
    (dict(semantic_ids=[2**70]), ValueError, r"semantic_ids of the pair 'bad' (must be integers|holds)"),
    (dict(semantic_ids=[-(2**40)]), ValueError, "semantic_ids of the pair 'bad' holds -1099511627776"),
]


@pytest.mark.parametrize("bad, error, message", BAD_ROWS)
@pytest.mark.parametrize("together", [False, True])
def test_a_bad_row_is_refused_alone(tmp_path, bad, error, message, together):
    row = {"id": "bad", "semantic_ids": [1], "text_ids": [1], "text": None, "score": None, "source": "real", **bad}
    with PairWriter(tmp_path) as writer:
        for number in range(3):
            writer.write(f"u{number}", [number], [1])
            with pytest.raises(error, match=message):
                if together:
                    names = ("id", "semantic_ids", "text_ids", "text", "score")
                    columns = ([{"id": "good", "semantic_ids": [1], "text_ids": [1]}.get(n), row[n]] for n in names)
                    ids, semantic, text_ids, texts, scores = columns
                    writer.write_many(ids, semantic, text_ids, texts=texts, scores=scores, source=row["source"])
                else:
                    writer.write(row.pop("id"), row.pop("semantic_ids"), row.pop("text_ids"), **row)
            row = {
                "id": "bad",
                "semantic_ids": [1],
                "text_ids": [1],
                "text": None,
                "score": None,
                "source": "real",
                **bad,
            }
    assert as_lists(GeneratedAudioTextDataset(tmp_path)) == [([number], [1]) for number in range(3)]


def test_pairs_of_another_kind_are_refused(tmp_path):
    write_rows(tmp_path, unique_consecutive=True)
    for changed in ({"unique_consecutive": False}, {"num_text_token_ids": 31}, {"options": {"beam_size": 4}}):
        with pytest.raises(ValueError, match=f"{next(iter(changed.get('options', changed)))} is"):
            write_rows(tmp_path, **{"unique_consecutive": True, **changed})
    assert len(GeneratedAudioTextDataset(tmp_path)) == 3


def long_row(number):
    return np.random.default_rng(number).integers(0, 500, 150_000)


def write_for_ever(folder, start):
    with PairWriter(folder, num_semantic_token_ids=500, num_text_token_ids=30, rows_per_shard=10) as writer:
        for number in itertools.count(start):
            writer.write(f"u{number}", long_row(number), [1 + number % 29])


@pytest.mark.slow
@needs_fork
def test_killed_writers_leave_whole_shards(tmp_path):
    draw = random.Random(0)
    folder = tmp_path / "p"
    folder.mkdir()
    for _ in range(3):
        rows = 10 * len(list_shards(folder))
        writer = get_context("fork").Process(target=write_for_ever, args=(folder, rows))
        writer.start()
        left, slow = 0.5 * draw.random(), time.monotonic() + 60
        begin = None  # of the time that the writer is given, from its first shard on
        while begin is None or time.monotonic() < begin + left:
            assert time.monotonic() < slow and writer.is_alive()
            shards = list_shards(folder)
            if begin is None and 10 * len(shards) > rows:
                begin = time.monotonic()
            for shard in shards[-1:]:
                assert read_footer(shard).num_rows == 10  # whole at every moment
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
    dataset = GeneratedAudioTextDataset(folder)
    assert len(dataset) >= 30 and dataset.ids == [f"u{number}" for number in range(len(dataset))]
    for number, (semantic_ids, text_ids) in enumerate(dataset):
        assert np.array_equal(semantic_ids, long_row(number)) and text_ids.tolist() == [1 + number % 29]
    beside(folder / "pairs-00000-000900.parquet").write_bytes(b"P")
    PairWriter(folder, num_semantic_token_ids=500, num_text_token_ids=30).close()
    assert not list(folder.glob(".pairs-*")), "halves are cleared away"
    assert json.loads((folder / "dataset.json").read_text())["counts"]["pairs"] == len(dataset)


def test_two_writers_of_one_rank_lose_nothing(tmp_path):
    one, two = PairWriter(tmp_path), PairWriter(tmp_path)
    for number, writer in enumerate((one, two, two, one)):
        writer.write(f"u{number}", [number], [1])
        writer.flush()
    assert GeneratedAudioTextDataset(tmp_path).ids == ["u0", "u1", "u2", "u3"]


@pytest.mark.parametrize("together", [False, True])
def test_a_full_disk_loses_nothing(tmp_path, small_disk, together):
    writer = PairWriter(tmp_path, num_semantic_token_ids=500, rows_per_shard=50)
    numbers = range(50, 180)
    for number in range(50):
        writer.write(f"u{number}", *row(number))
    small_disk(1000)
    if together:
        with pytest.raises(OSError, match=f"000001.parquet was not written to {tmp_path}"):
            writer.write_many([f"u{n}" for n in numbers], [row(n)[0] for n in numbers], [row(n)[1] for n in numbers])
    else:
        for number in numbers[:50]:
            if number < numbers[49]:
                writer.write(f"u{number}", *row(number))
        with pytest.raises(OSError, match=f"000001.parquet was not written to {tmp_path}"):
            writer.write(f"u{numbers[49]}", *row(numbers[49]))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["dataset.json", "pairs-00000-000000.parquet"]  # no half of a file
    assert as_lists(GeneratedAudioTextDataset(tmp_path)) == [row(number) for number in range(50)]
    small_disk()
    writer.close()  # there is room again: what was held back is written
    rows = 180 if together else 100
    assert as_lists(GeneratedAudioTextDataset(tmp_path)) == [row(number) for number in range(rows)]


def test_folders_without_right_to_write(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        PairWriter(tmp_path / "file" / "pairs")
    writer = PairWriter(tmp_path / "pairs", rows_per_shard=1)

    def refused(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refused)
    with pytest.raises(OSError, match=f"Permission denied; .* not written to {tmp_path / 'pairs'}"):
        writer.write("a", [1], [1])


@pytest.mark.parametrize("together", [False, True])
def test_bounds_of_shards(tmp_path, together):
    rows = [([1] * 10, [2] * 5)] * 20  # 60 bytes of ids each
    with PairWriter(tmp_path, rows_per_shard=7, bytes_per_shard=300) as writer:
        writer.write_many(["a"], [[1] * 200], [[2]])  # larger than the bound, and never cut
        if together:
            writer.write_many([str(n) for n in range(20)], *zip(*rows, strict=True), scores=np.arange(20.0))
        else:
            for number, pair in enumerate(rows):
                writer.write(str(number), *pair)
    counts = [pq.read_metadata(path).num_rows for path in list_shards(tmp_path)]
    assert counts == [1, 5, 5, 5, 5]
    assert as_lists(GeneratedAudioTextDataset(tmp_path))[1:] == rows
    with PairWriter(tmp_path / "2", rows_per_shard=7, bytes_per_shard=1000) as writer:
        writer.write_many([str(n) for n in range(20)], *zip(*rows, strict=True))
    assert [pq.read_metadata(path).num_rows for path in list_shards(tmp_path / "2")] == [7, 7, 6]
    for options in ({"rows_per_shard": 0}, {"bytes_per_shard": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be at least 1, got 0"):
            PairWriter(tmp_path / "3", **options)


def test_many_rows_at_once_are_those_one_by_one(tmp_path):
    fill(tmp_path / "1")
    numbers = range(40)
    with PairWriter(tmp_path / "2", num_semantic_token_ids=500, num_text_token_ids=30, rows_per_shard=7) as writer:
        writer.write_many(
            [f"u{n}" for n in numbers],
            [torch.tensor(row(n)[0], dtype=torch.long) for n in numbers],
            [np.array(row(n)[1], dtype=np.int64) for n in numbers],
            texts=[f"text {n}" for n in numbers],
            scores=[None if n % 10 == 9 else -n / 10 for n in numbers],
        )
    for one, two in zip(list_shards(tmp_path / "1"), list_shards(tmp_path / "2"), strict=True):
        assert read_shard(one).equals(read_shard(two))
    assert (tmp_path / "1" / "dataset.json").read_text() == (tmp_path / "2" / "dataset.json").read_text()
    with PairWriter(tmp_path / "3", num_text_token_ids=30) as writer:
        for semantic_ids, text_ids, message in [
            ([[1], [2]], [[1], [1, 30]], "text_ids of the pair 'b' holds 30, ids are 1 to 29"),
            ([[1], [2**31 + 5]], [[1], [1]], "semantic_ids of the pair 'b' holds 2147483653"),
            ([[0.5], [1]], [[1], [1]], r"integers \[n\]"),
        ]:
            with pytest.raises(ValueError, match=message):
                writer.write_many(["a", "b"], semantic_ids, text_ids)
        with pytest.raises(ValueError, match="the table has no column 'score'"):
            writer.write_table(read_shard(list_shards(tmp_path / "1")[0]).drop_columns(["score"]))
    assert not list_shards(tmp_path / "3")


def test_a_row_is_copied_when_it_is_written(tmp_path):
    ids = np.array([1, 2], dtype=np.int32)
    with PairWriter(tmp_path) as writer:
        writer.write("a", ids, ids)
        ids[:] = 9
    assert as_lists(GeneratedAudioTextDataset(tmp_path)) == [([1, 2], [1, 2])]


def test_an_id_twice_is_refused_in_real_pairs(tmp_path):
    write_pairs(tmp_path, [([1], [1])], ids=["a"])
    for ids in (["b", "b"], ["a", "b"]):
        with pytest.raises(ValueError, match=f"the id '{ids[0]}' comes twice in {tmp_path}"):
            write_pairs(tmp_path, [([1], [1])] * 2, ids=ids)
    assert GeneratedAudioTextDataset(tmp_path).ids == ["a", "b"]


def test_write_pairs(tmp_path):
    pairs = [(torch.tensor(semantic), torch.tensor(text, dtype=torch.int32)) for semantic, text in ROWS]
    write_pairs(tmp_path, pairs, ids=["a", "b", "c"], texts=["x", None, "z"], num_text_token_ids=30)
    dataset = GeneratedAudioTextDataset(tmp_path)
    assert as_lists(dataset) == ROWS
    assert (dataset.ids, dataset.column("text")) == (["a", "b", "c"], ["x", None, "z"])
    assert dataset.column("source") == ["real"] * 3


def test_ids_and_texts_are_one_for_each_pair(tmp_path):
    pairs = [([1, 2], [3])] * 2
    for name in ("ids", "texts"):
        with pytest.raises(ValueError, match=f"{name} has fewer entries than there are pairs"):
            write_pairs(tmp_path / name, pairs, **{name: ["one"]})
    write_pairs(tmp_path / "numbers", pairs, ids=[7, 8])
    assert GeneratedAudioTextDataset(tmp_path / "numbers", ids=[8], columns="id")[0] == ("8",)
