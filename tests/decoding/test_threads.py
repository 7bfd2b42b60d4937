"""One model in several threads: generation neither changes the mode that another thread trains in, nor mixes up rows."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import small
import torch
from small import TEXT_TO_SPEECH

from spear_tts_pytorch.decoding.step import DecoderStep


def test_generating_and_scoring_never_touch_the_mode(monkeypatch):
    """Modes are looked at in the middle of decoding, as another thread would see them."""
    model, seen, step = small.make_model(attn_dropout=0.5, emb_dropout=0.5).train(), [], DecoderStep.__call__

    def watched(self, ids, cache):
        seen.append(all(part.training for part in model.modules()))
        return step(self, ids, cache)

    monkeypatch.setattr(DecoderStep, "__call__", watched)
    model.source_transformer.register_forward_pre_hook(lambda *_: seen.append(model.source_transformer.training))
    source = torch.tensor([[1, 2, 3], [4, 5, 6]])
    options = dict(temperature=0.0, max_length=5, **TEXT_TO_SPEECH)
    wanted = small.make_model(attn_dropout=0.5, emb_dropout=0.5).eval().generate(source, **options)
    seen.clear()
    ids = model.generate(source, **options)
    assert torch.equal(ids, wanted)
    model.generate_many(list(source), progress=False, **options)
    model.generate_n_best(source, max_length=3, **TEXT_TO_SPEECH)
    stream = model.generate_stream(source, **options)
    assert torch.equal(torch.cat([next(stream), *stream], dim=1), wanted)
    first, again = (model.score(source, ids, end=False).log_probs for _ in range(2))
    assert torch.equal(first, again)
    assert len(seen) > 20 and all(seen)


@pytest.mark.parametrize("training", [False, True])
def test_threads_get_the_ids_of_one_thread(training):
    model = small.make_model(ff_dropout=0.5, emb_dropout=0.5).train(training)
    sources = [torch.randint(1, 9, (1, 1 + i % 5), generator=torch.Generator().manual_seed(i)) for i in range(16)]

    def generate(source):
        return model.generate(source, temperature=0.0, max_length=12, **TEXT_TO_SPEECH)

    wanted = [generate(source) for source in sources]
    with ThreadPoolExecutor(4) as pool:
        assert all(map(torch.equal, pool.map(generate, sources), wanted))
    assert model.training is training


def test_a_training_step_drops_the_same_while_another_thread_generates():
    def losses(disturbed):
        model, stop = small.make_model(ff_dropout=0.5, emb_dropout=0.5).train(), threading.Event()
        source, target = torch.randint(1, 9, (4, 6)), torch.randint(0, 9, (4, 8))

        def generate():
            while not stop.is_set():
                model.generate(source[:1], max_length=10, generator=torch.Generator(), **TEXT_TO_SPEECH)

        thread = threading.Thread(target=generate)
        if disturbed:
            thread.start()
        torch.manual_seed(1)
        found = [float(model(source, target, return_loss=True, **TEXT_TO_SPEECH).detach()) for _ in range(30)]
        stop.set()
        if disturbed:
            thread.join()
        return found

    torch.manual_seed(0)
    alone = losses(False)
    torch.manual_seed(0)
    assert losses(True) == alone and len(set(alone)) == 30
