"""Labelling by several processes and by processes that are killed: every item once, with the row it has alone."""

import os
import random
import signal
import time

import many
import pyarrow.parquet as pq
import pytest
import torch
from labelled import Counting, make_ids, make_model

from spear_tts_pytorch.data.generator import SemanticToTextDatasetGenerator
from spear_tts_pytorch.data.labelling import read_items
from spear_tts_pytorch.data.pairs import GeneratedAudioTextDataset, PairWriter, list_shards

KILLS = int(os.environ.get("SPEAR_TTS_KILLS", "3"))  # at random times
ITEMS = 150


def label(folder, pause=0.0, **options):
    """Beam search and sampling are as good as each other here; sampling would show a draw that depends on company."""
    torch.set_num_threads(1)
    dataset = Counting(make_ids(ITEMS), ids=[f"clip {index}" for index in range(ITEMS)])
    generator = SemanticToTextDatasetGenerator(
        make_model(), dataset=dataset, folder=folder, batch_size=2, rows_per_shard=5, progress=False
    )
    write = PairWriter.write

    def slowly(*pair, **rest):  # so that kills hit the writing too
        time.sleep(pause)
        write(*pair, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PairWriter, "write", slowly)
        return generator(max_length=12, beam_search_decode=False, filter_logits_fn=None, seed=5, **options)


def rows(folder):
    """Everything but the score, which rounding may move, by id; each id once."""
    dataset = GeneratedAudioTextDataset(folder, columns=("id", "semantic_ids", "text_ids", "text", "score", "source"))
    found = {one[0]: (one[1].tolist(), one[2].tolist(), one[3], one[5]) for one in dataset}
    assert len(found) == len(dataset)
    scores = dict(zip(dataset.ids, dataset.column("score"), strict=True))
    return found, scores


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert label(folder) == {"written": ITEMS, "skipped": 0, "empty": 0, "failed": 0}
    return rows(folder)


def assert_same(folder, whole):
    found, scores = rows(folder)
    assert found == whole[0]
    assert scores == pytest.approx(whole[1], abs=2e-4)


@pytest.mark.slow
def test_two_processes_are_one(tmp_path, whole):
    counts = many.results(2, label, str(tmp_path))
    assert [one["written"] for one in counts] == [ITEMS // 2] * 2
    assert {path.name.split("-")[1] for path in list_shards(tmp_path)} == {"00000", "00001"}
    assert_same(tmp_path, whole)
    assert label(tmp_path)["skipped"] == ITEMS  # one process takes up what two have written


@pytest.mark.slow
def test_killed_at_random_times(tmp_path, whole):
    random.seed(0)
    kills = 0
    while not many.killed_after(random.uniform(0.1, 1.2) if kills < KILLS else None, label, tmp_path, 0.005 * KILLS):
        kills += 1
        for path in list_shards(tmp_path):
            assert pq.read_table(path).num_rows > 0  # readable at every moment
    assert kills == KILLS  # else it was done before: the pause is too short
    assert_same(tmp_path, whole)


class Deadly:
    """Kills the process that reads it."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no such signal")
def test_a_killed_process_is_an_error_in_one_line():
    with pytest.raises(ChildProcessError, match="was killed, perhaps because memory was short"):
        list(read_items(Deadly(), [0, 1], ["a", "b"], num_workers=1))
