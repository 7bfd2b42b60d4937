"""Decoded shards: which folders are mapped, where the files are, several processes, changed and broken files."""

import json
import os
import shutil
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pair_rows import as_lists, fill, needs_fork, row

from spear_tts_pytorch.data.pairs import GeneratedAudioTextDataset, PairWriter, list_shards, write_pairs
from spear_tts_pytorch.data.pairs import dataset as pairs_module
from spear_tts_pytorch.data.pairs.cache import CACHE_NAME
from spear_tts_pytorch.data.pairs.shards import pair_schema, read_shard


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


@pytest.mark.parametrize("name,value", [("semantic_ids", 500), ("semantic_ids", -1), ("text_ids", 0)])
def test_ids_out_of_range_in_a_store_are_named(tmp_path, mapped, name, value):
    fill(tmp_path, rows=14)
    shard = list_shards(tmp_path)[1]
    rows = read_shard(shard).to_pylist()
    rows[3][name] = [1, value]
    pq.write_table(pa.Table.from_pylist(rows, schema=pair_schema()), shard)
    dataset = GeneratedAudioTextDataset(tmp_path)
    with pytest.raises(ValueError, match=f"{name} of the pair 'u10' in .*{shard.name} holds {value}, ids are"):
        dataset[7]
    assert len(decoded(tmp_path)) == 0
    with pytest.warns(UserWarning, match="u10"):
        assert len(GeneratedAudioTextDataset(tmp_path, on_error="skip")) == 7


def test_a_full_disk_under_a_reader(tmp_path, small_disk, monkeypatch):
    monkeypatch.setattr(pairs_module, "IN_MEMORY_IDS", 0)  # shards are decoded to files
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    dataset = GeneratedAudioTextDataset(fill(tmp_path / "p"))
    small_disk(100)
    with pytest.raises(OSError, match="make room, or pass a cache_folder"):
        dataset[0]
    assert not list((tmp_path / "p" / CACHE_NAME).iterdir())
    small_disk()
    assert dataset[3][0].tolist() == row(3)[0]


@pytest.mark.parametrize("how", ["replaced", "in place"])
def test_a_shard_with_other_contents_of_the_same_size_and_time(tmp_path, mapped, how):
    def fill_with(folder, id_):
        write_pairs(folder, [([id_] * 4, [1])], num_semantic_token_ids=9, num_text_token_ids=9)
        return list_shards(folder)[0]

    shard, other = fill_with(tmp_path / "a", 3), fill_with(tmp_path / "b", 4)
    assert GeneratedAudioTextDataset(tmp_path / "a")[0][0].tolist() == [3] * 4
    state = shard.stat()
    assert other.stat().st_size == state.st_size
    if how == "replaced":
        os.replace(other, shard)
    else:
        shard.write_bytes(other.read_bytes())
    os.utime(shard, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert GeneratedAudioTextDataset(tmp_path / "a")[0][0].tolist() == [4] * 4
    assert len(decoded(tmp_path / "a")) == 1


def test_a_copied_folder_keeps_its_decoded_files(tmp_path, mapped):
    fill(tmp_path / "a", rows=7)
    as_lists(GeneratedAudioTextDataset(tmp_path / "a"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")  # with other times
    before = (tmp_path / "b" / CACHE_NAME / decoded(tmp_path / "b")[0]).stat().st_mtime_ns
    assert as_lists(GeneratedAudioTextDataset(tmp_path / "b")) == [row(number) for number in range(7)]
    assert decoded(tmp_path / "a") == decoded(tmp_path / "b")
    assert (tmp_path / "b" / CACHE_NAME / decoded(tmp_path / "b")[0]).stat().st_mtime_ns == before


def test_a_smaller_vocabulary_is_checked_again(tmp_path, mapped):
    write_pairs(tmp_path, [([8], [1])], num_semantic_token_ids=9, num_text_token_ids=9)
    GeneratedAudioTextDataset(tmp_path)[0]
    metadata = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps({**metadata, "num_semantic_token_ids": 5}))
    with pytest.raises(ValueError, match="holds 8, ids are 0 to 4"):
        GeneratedAudioTextDataset(tmp_path)[0]


def test_folders_whose_names_are_no_unicode(tmp_path, mapped):
    folder = tmp_path / "caf\udce9"  # a name in Latin-1
    try:
        folder.mkdir()
    except (OSError, UnicodeError):
        pytest.skip("this file system has Unicode names only")
    fill(folder)
    for _ in range(2):  # decoded, then mapped
        assert as_lists(GeneratedAudioTextDataset(folder)) == [row(number) for number in range(40)]
    assert len(decoded(folder)) == 6
