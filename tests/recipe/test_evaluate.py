"""A judge's network that learns a made-up speech."""

from __future__ import annotations

import pytest
import torch
from readers import K, V, made_up_pairs, small_evaluator

from spear_tts_pytorch.decoding.ctc import CharacterLM
from spear_tts_pytorch.recipe.evaluate import SemanticASR
from spear_tts_pytorch.utils.metrics import token_error_rate


@pytest.fixture(autouse=True)
def error_rate_packages():
    pytest.importorskip("jiwer")


@pytest.fixture(scope="module")
def trained() -> tuple[SemanticASR, list[float]]:
    evaluator = small_evaluator()
    done = evaluator.fit(made_up_pairs(300), steps=200, batch_tokens=600, lr=1e-2, progress=False)
    return evaluator, done.losses


@pytest.mark.slow
def test_the_evaluator_learns(trained):
    evaluator, history = trained
    assert len(history) == 200
    assert sum(history[-10:]) < 0.1 * sum(history[:10])
    test = made_up_pairs(100, seed=1)
    heard = evaluator.transcribe([semantic for semantic, _ in test])
    assert token_error_rate(heard, [text for _, text in test]) < 10
    assert not evaluator.training


def test_transcripts_do_not_depend_on_the_batch_and_keep_their_order(trained):
    rows = [semantic for semantic, _ in made_up_pairs(20, seed=2)]
    together = trained[0].transcribe(rows)
    for row, text in zip(rows, together, strict=True):
        assert trained[0].transcribe([row], batch_tokens=1)[0].tolist() == text.tolist()


def test_padding_changes_nothing(trained):
    ids = made_up_pairs(1, seed=3)[0][0][None]
    padded = torch.nn.functional.pad(ids, (0, 9), value=-1)
    with torch.no_grad():
        alone, length = trained[0](ids)
        together, padded_length = trained[0](padded)
    assert length.tolist() == padded_length.tolist() == [ids.shape[1]]
    torch.testing.assert_close(together[:, : ids.shape[1]], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("width", [4, 40])
def test_embeddings_begin_where_the_centroids_lie(width):
    centroids = torch.randn(K, width, generator=torch.Generator().manual_seed(0)) + 3
    begun = small_evaluator(centroids=centroids).embedding.weight[:-1]
    if width == 4:  # nothing is lost: distances are those of the centroids, but for a common factor
        ratio = torch.pdist(begun) / torch.pdist(centroids)
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-4, atol=0)
    assert float(begun.detach().square().mean()) == pytest.approx(1, rel=1e-4)


def test_ids_are_masked_in_training_alone():
    evaluator = small_evaluator(dropout=0.0, token_dropout=0.5, span_dropout=0.3)
    semantic, text = (list(part) for part in zip(*made_up_pairs(8), strict=True))
    evaluator.train()
    assert evaluator.loss(semantic, text) != evaluator.loss(semantic, text)
    lengths = torch.full((2000,), 60)
    share = evaluator._masks(lengths, 60).float().mean()
    assert 0.5 < share < 1 - 0.5 * 0.7 + 0.01  # spans overlap, and end at the row's end
    evaluator.eval()
    assert evaluator.loss(semantic, text) == evaluator.loss(semantic, text)


def test_a_language_model_takes_part(trained):
    rows = [semantic for semantic, _ in made_up_pairs(10, seed=4)]
    lm = CharacterLM.fit([[6, 6, 6]] * 50, vocab_size=V, order=3)
    plain = trained[0].transcribe(rows)
    fused = trained[0].transcribe(rows, lm=lm, lm_weight=20.0)
    assert [row.tolist() for row in fused] != [row.tolist() for row in plain]
    gentle = trained[0].transcribe(rows, lm=lm, lm_weight=0.0)
    assert sum(a.tolist() == b.tolist() for a, b in zip(plain, gentle, strict=True)) >= 9


def test_training_is_reproducible_and_leaves_the_random_state_alone():
    pairs = made_up_pairs(40)
    torch.manual_seed(5)
    histories = []
    for seed in (0, 0, 1):
        evaluator = small_evaluator()
        state = torch.get_rng_state()
        histories.append(evaluator.fit(pairs, steps=5, batch_tokens=300, seed=seed, progress=False).losses)
        assert torch.equal(torch.get_rng_state(), state)
    assert histories[0] == histories[1] != histories[2]


def test_more_frames_per_token_make_room_for_long_texts():
    pairs = [(semantic[:1], text) for semantic, text in made_up_pairs(10)]
    with pytest.raises(ValueError, match="frames_per_token"):
        small_evaluator().fit(pairs, steps=1, progress=False)
    evaluator = small_evaluator(frames_per_token=12)
    assert evaluator(pairs[0][0][None])[0].shape == (1, 12, V) and evaluator(pairs[0][0][None])[1].tolist() == [12]
    assert evaluator.fit(pairs, steps=2, progress=False).losses[0] > 0


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "pairs is empty"),
        ([(torch.tensor([K]), torch.tensor([1]))], "semantic ids"),
        ([(torch.tensor([-1]), torch.tensor([1]))], "semantic ids"),
        ([(torch.tensor([1, 2]), torch.tensor([0]))], "text ids"),
        ([(torch.tensor([1, 2]), torch.tensor([V]))], "text ids"),
    ],
)
def test_bad_pairs_are_refused(pairs, message):
    with pytest.raises(ValueError, match=message):
        small_evaluator().fit(pairs, steps=1, progress=False)


def test_bad_sizes_and_rows_are_refused():
    with pytest.raises(ValueError, match="num_text_token_ids"):
        SemanticASR(K, 1)
    with pytest.raises(ValueError, match=r"centroids must be \[24, d\].*\[23, 4\]"):
        small_evaluator(centroids=torch.randn(K - 1, 4))
    with pytest.raises(ValueError, match="semantic ids"):
        small_evaluator().transcribe([torch.tensor([K + 5])])
    assert small_evaluator().transcribe([]) == []


def test_empty_rows_are_read_as_nothing_and_not_trained_on(trained):
    nothing = torch.empty(0, dtype=torch.long)
    rows = [semantic for semantic, _ in made_up_pairs(3, seed=6)]
    heard = trained[0].transcribe([nothing, rows[0], rows[1], nothing, rows[2]])
    assert [row.tolist() for row in heard if len(row)] == [row.tolist() for row in trained[0].transcribe(rows)]
    assert heard[0].tolist() == heard[3].tolist() == []
    assert trained[0].transcribe([nothing])[0].tolist() == []
    done = small_evaluator().fit([(nothing, torch.tensor([1])), *made_up_pairs(5)], steps=3, progress=False)
    assert all(torch.tensor(done.losses).isfinite())
