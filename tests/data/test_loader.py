"""Batches: what samplers promise, the stream over processes, padding, and what collating refuses."""

import numpy as np
import pytest
import torch

from spear_tts_pytorch.data.loader import (
    BatchStream,
    FixedBatchSampler,
    PairCollate,
    Position,
    SpeechCollate,
    TokenBudgetBatchSampler,
    padding_share,
)
from spear_tts_pytorch.tokenizers.text import CharacterTokenizer

PAD, EOS = {"speech": -1, "text": 0}, {"speech": 20, "text": 30}


def lengths_like_speech(num_items, seed=0):
    return np.random.default_rng(seed).lognormal(4, 0.7, num_items).astype(np.int64) + 1


def cost(lengths, batch):
    lengths = lengths if lengths.ndim == 2 else lengths[:, None]
    return len(batch) * lengths[batch].max(axis=0).sum()


@pytest.mark.parametrize("num_items", [1, 2, 37, 3000])
@pytest.mark.parametrize("shuffle", [True, False])
def test_each_index_once_and_never_above_the_budget(num_items, shuffle):
    two_parts = np.stack([lengths_like_speech(num_items, seed) for seed in (1, 2)], axis=1)
    for lengths in (lengths_like_speech(num_items), two_parts):
        sampler = TokenBudgetBatchSampler(lengths, 400, seed=3, shuffle=shuffle)
        for epoch in (0, 1):
            batches = sampler.batches(epoch)
            assert sorted(index for batch in batches for index in batch) == list(range(num_items))
            assert all(len(batch) == 1 or cost(lengths, batch) <= 400 for batch in batches)


def test_padding_is_small_and_batches_are_full():
    lengths = lengths_like_speech(5000)
    batches = TokenBudgetBatchSampler(lengths, 4000, seed=0).batches(0)
    assert padding_share(lengths, batches) < 0.1
    assert np.median([cost(lengths, batch) for batch in batches]) > 0.9 * 4000
    random = FixedBatchSampler(5000, 40).batches(0)
    assert padding_share(lengths, random) > 0.4  # what bucketing saves


def test_order_is_a_function_of_seed_and_epoch():
    lengths = lengths_like_speech(300)
    make = [
        lambda seed: TokenBudgetBatchSampler(lengths, 1000, seed=seed),
        lambda seed: FixedBatchSampler(300, 8, seed=seed),
    ]
    for sampler in make:
        first, again, other = sampler(1), sampler(1), sampler(2)
        again.batches(5)
        assert first.batches(0) == again.batches(0)
        assert first.batches(0) != first.batches(1) and first.batches(0) != other.batches(0)
        first.set_epoch(1)
        assert list(first) == again.batches(1) and len(first) == len(again.batches(1))
    together = [{tuple(sorted(batch)) for batch in make[0](1).batches(epoch)} for epoch in (0, 1)]
    assert len(together[0] & together[1]) < len(together[0]) / 2  # other batch mates too, not only another order


def test_most_rows_and_last_batch():
    sampler = TokenBudgetBatchSampler([1] * 10, 1000, max_rows=4)
    assert sorted(map(len, sampler.batches(0))) == [2, 4, 4]
    assert [len(batch) for batch in FixedBatchSampler(10, 4).batches(0)] == [4, 4, 2]
    assert [len(batch) for batch in FixedBatchSampler(10, 4, drop_last=True).batches(0)] == [4, 4]
    assert [len(batch) for batch in FixedBatchSampler(3, 4, drop_last=True).batches(0)] == [3]
    with pytest.raises(ValueError, match="dataset is empty"):
        FixedBatchSampler(0, 4)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        FixedBatchSampler(4, 0)
    with pytest.raises(ValueError, match="batch_tokens"):
        TokenBudgetBatchSampler([1], 0)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_stream_over_processes_loses_and_repeats_nothing(world):
    sampler = FixedBatchSampler(11, 2, seed=0)  # six batches an epoch
    whole = sampler.batches(0) + [[11 + index for index in batch] for batch in sampler.batches(1)]
    parts = [iter(BatchStream(sampler, Position(), rank, world)) for rank in range(world)]
    assert [next(parts[i % world]) for i in range(12)] == whole
    position = Position().advance(sampler, 8)
    assert position == Position(1, 2)
    resumed = iter(BatchStream(sampler, position, 0, 1))
    assert [next(resumed) for _ in range(4)] == whole[8:]


def make(collate, **options):
    return collate(20, 30, eos_id=EOS, pad_id=PAD, **options)


def test_pairs_are_padded_each_with_its_own_id():
    batch = make(PairCollate)([(torch.tensor([1, 2, 0]), torch.tensor([5], dtype=torch.int32)), ([3], [6, 7, 30])])
    assert batch["semantic"].tolist() == [[1, 2, 0], [3, -1, -1]]
    assert batch["text"].tolist() == [[5, 0], [6, 7]]  # without the end-of-sequence that an item brought


def test_waveforms_carry_lengths():
    for items in ([torch.ones(4), torch.ones(2)], [(torch.ones(4),), (torch.ones(2),)]):
        batch = make(SpeechCollate)(items)
        assert batch["wave"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]] and batch["wave_lengths"].tolist() == [4, 2]


def test_texts_are_encoded():
    def encode(texts):
        return torch.tensor([[len(text), 0] for text in texts])

    batch = make(PairCollate, tokenizer_encode=encode)([([1], "abc"), ([2], "d")])
    assert batch["text"].tolist() == [[3], [1]]
    with pytest.raises(ValueError, match="tokenizer_encode"):
        make(PairCollate)([([1], "abc")])


def test_bad_items():
    ids = torch.tensor([1, 2])
    for collate, items, error, message in [
        (PairCollate, [(torch.tensor([25]), ids)], ValueError, "swapped"),
        (PairCollate, [(ids, torch.tensor([31]))], ValueError, "swapped"),
        (PairCollate, [("text", ids)], TypeError, "the order is"),
        (PairCollate, [ids], TypeError, "must be a pair"),
        (PairCollate, [(ids, torch.tensor([0.5]))], TypeError, "text ids must be integers"),
        (SpeechCollate, [ids, torch.randn(4)], TypeError, "both waveforms and semantic ids"),
        (SpeechCollate, [(ids, ids)], TypeError, "not a pair"),
        (SpeechCollate, [ids[None]], TypeError, "semantic ids"),
        (SpeechCollate, [torch.tensor([20 + 1])], ValueError, "ids are 0 to 19"),
    ]:
        with pytest.raises(error, match=message):
            make(collate)(items)


def test_texts_and_text_ids_may_stand_in_one_batch():
    """Real pairs hold texts, generated ones ids."""
    tokenizer = CharacterTokenizer("abc ")
    collate = PairCollate(
        20, 10, eos_id={"speech": 20, "text": 10}, pad_id={"speech": -1, "text": 0}, tokenizer_encode=tokenizer
    )
    speech = torch.tensor([1, 2])
    rows = [tokenizer([text])[0] for text in ("ab", "cab c")]
    batch = collate([(speech, "ab"), (speech, rows[1]), (speech, "cab c")])["text"]
    assert [row[row != 0].tolist() for row in batch] == [rows[0].tolist(), rows[1].tolist(), rows[1].tolist()]
