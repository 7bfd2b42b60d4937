"""Removal of repeats: any tokenizer without them, durations, the way back, and generated ids."""

import pytest
import torch

from spear_tts_pytorch.tokenizers.consecutive import UniqueConsecutive, as_tokenized, expand, without_repeats
from spear_tts_pytorch.tokenizers.mel_kmeans import MelKmeans
from spear_tts_pytorch.tokens import pad_sequences

RATE = 8000


def without_repeats_by_a_loop(frames):
    rows = [[i for i, before in zip(row, [-1, *row], strict=False) if i not in (-1, before)] for row in frames.tolist()]
    return pad_sequences([torch.tensor(row) for row in rows], -1)


@pytest.fixture(scope="module")
def clips():
    generator = torch.Generator().manual_seed(0)
    tones = [torch.sin(torch.arange(1600 + 240 * i) * (0.1 + 0.13 * i)) * (0.1 + 0.04 * i) for i in range(9)]
    return [tone + 0.01 * torch.randn(len(tone), generator=generator) for tone in tones]


@pytest.fixture(scope="module")
def tokenizer(clips):
    pytest.importorskip("sklearn")
    return MelKmeans.fit(clips, RATE, 8, progress=False)


@pytest.fixture(scope="module")
def batch(clips):
    wav = torch.nn.utils.rnn.pad_sequence(clips[:5], batch_first=True)
    return wav, torch.tensor([len(clip) for clip in clips[:5]])


def test_ids_without_repeats_can_be_expanded_again(tokenizer, batch, tmp_path):
    unique, (wav, lengths) = UniqueConsecutive(tokenizer), batch
    ids, durations = unique.encode_with_durations(wav, lengths)
    assert torch.equal(expand(ids, durations), tokenizer(wav, lengths)) and torch.equal(unique(wav, lengths), ids)
    assert torch.equal(ids == -1, durations == 0)
    unique.save(tmp_path)
    assert torch.equal(UniqueConsecutive.load(tmp_path)(wav, lengths), ids)
    halved = wav[:, ::2], lengths // 2, RATE // 2
    assert torch.equal(unique(*halved), without_repeats_by_a_loop(tokenizer(*halved)))


def test_expanding_refuses_wrong_durations():
    assert expand(torch.tensor([[5, -1]]), torch.tensor([[2, 3]])).tolist() == [[5, 5]], "padding lasts for nothing"
    ids, durations = torch.tensor([[1, 2]]), torch.tensor([[3, 4]])
    for wrong in (durations[:, 1:], -durations):
        with pytest.raises(ValueError, match="one shape|at least 0 frames"):
            expand(ids, wrong)
    with pytest.raises(ValueError, match="one shape"):
        expand(ids[0], durations[0])


def test_both_ways_to_remove_repeats_agree(tokenizer, batch, tmp_path):
    options = dict(normalize=tokenizer.normalize, unique_consecutive=True)
    parts = (tokenizer.centroids, tokenizer.cluster_log_mel, tokenizer.run_lengths, tokenizer.settings)
    own, wrapped = MelKmeans(*parts, **options), UniqueConsecutive(tokenizer)
    wanted = without_repeats_by_a_loop(tokenizer(*batch))
    assert torch.equal(own(*batch), wanted) and torch.equal(wrapped(*batch), wanted)
    for one, other in zip(own.encode_with_durations(*batch), wrapped.encode_with_durations(*batch), strict=True):
        assert torch.equal(one, other)
    own.save(tmp_path)
    assert torch.equal(MelKmeans.load(tmp_path)(*batch), wanted)


def test_repeats_are_removed_once(tokenizer, clips):
    for own in (UniqueConsecutive(tokenizer), MelKmeans.fit(clips, RATE, 4, unique_consecutive=True, progress=False)):
        with pytest.raises(ValueError, match=f"a {type(own).__name__}, removes repeats already"):
            UniqueConsecutive(own)


def test_rows_and_generated_rows(tokenizer):
    rows = [torch.tensor([4, 4, 1, 4]), torch.tensor([2, 2, 2])]
    ids, durations = without_repeats(rows)
    assert ids.tolist() == [[4, 1, 4], [2, -1, -1]] and durations.tolist() == [[2, 1, 1], [3, 0, 0]]
    assert [row.tolist() for row in as_tokenized(rows, UniqueConsecutive(tokenizer))] == [[4, 1, 4], [2]]
    for keeps_repeats in (tokenizer, None):
        assert [row.tolist() for row in as_tokenized(rows, keeps_repeats)] == [row.tolist() for row in rows]


def test_a_tokenizer_that_cannot_be_saved_is_named(tmp_path):
    class Foreign:
        codebook_size, target_sample_hz, downsample_factor = 8, 8000, 80

        def __call__(self, wav, lengths=None, input_sample_hz=None, flatten=True):
            return wav.long()

    with pytest.raises(TypeError, match=r"a Foreign, cannot be saved: give it a method save\(folder\)"):
        UniqueConsecutive(Foreign()).save(tmp_path)


def test_repr_says_clusters_rates_and_the_inner_tokenizer(tokenizer):
    assert repr(UniqueConsecutive(tokenizer)) == (
        "UniqueConsecutive(MelKmeans: 8 clusters, 8000 Hz, at most 50 ids per second)"
    )
