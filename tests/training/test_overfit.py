"""Real pairs can be learned by heart, in both directions: what a model, its batches, its loss and its decoding must do."""

import pytest
import torch

from spear_tts_pytorch.data.corpora.readers import read_corpus
from spear_tts_pytorch.data.tokenized import fit_tokenizer
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.tokenizers.text import CharacterTokenizer
from spear_tts_pytorch.tokens import append_eos, pad_sequences, strip, valid_mask
from spear_tts_pytorch.training.stages import SemanticToTextTrainer, TextToSemanticTrainer

PAIRS, STEPS = 8, 100
STAGES = {
    ("text", "speech"): (TextToSemanticTrainer, {"freeze": "none"}),
    ("speech", "text"): (SemanticToTextTrainer, {"freeze_encoder": False}),
}


@pytest.fixture(scope="module")
def pairs(corpora):
    """The shortest clips that say 12 to 40 characters, no two of them the same: about 50 units and 15 characters each."""
    pytest.importorskip("sklearn", reason="MelKmeans.fit needs scikit-learn")
    clips = {}
    for clip in sorted(read_corpus(corpora / "asterisk_en"), key=lambda clip: clip.seconds):
        if 12 <= len(clip.text or "") <= 40:
            clips.setdefault(clip.text.lower(), clip)
    clips = list(clips.values())[:PAIRS]
    units, characters = fit_tokenizer(clips, 32, progress=False), CharacterTokenizer.fit([clip.text for clip in clips])
    speech = [units(torch.from_numpy(clip.audio()))[0] for clip in clips]
    return units, characters, list(zip(speech, [characters([clip.text])[0] for clip in clips], strict=True))


def is_exact(row, target, model, target_type):
    return strip(row, model.pad_id[target_type], model.eos_id[target_type]).tolist() == target.tolist()


@pytest.mark.slow
@pytest.mark.parametrize(("source_type", "target_type"), STAGES, ids=["text to speech", "speech to text"])
def test_real_pairs_are_learned_by_heart(pairs, source_type, target_type):
    units, characters, items = pairs
    assert len(items) == PAIRS and sum(len(speech) for speech, _ in items) > 40 * PAIRS
    trainer_class, options = STAGES[source_type, target_type]
    torch.manual_seed(0)
    model = TextToSemantic(
        96, source_depth=2, target_depth=2, heads=4, dim_head=24, wav2vec=units, tokenizer_encode=characters
    )
    trainer = trainer_class(
        model, dataset=items, valid_dataset=items, num_train_steps=STEPS, num_warmup_steps=STEPS // 10, batch_size=PAIRS,
        lr=3e-3, results_folder=None, save_results_every=None, progress=False, **options,
    )  # fmt: skip
    trainer.train()
    rows = {"speech": [speech for speech, _ in items], "text": [text for _, text in items]}
    source, target = (pad_sequences(rows[one], model.pad_id[one]) for one in (source_type, target_type))
    types = dict(source_type=source_type, target_type=target_type)
    with torch.no_grad():
        _, logits = model.eval()(source, target, return_loss=True, return_logits=True, **types)
    target = append_eos(target, model.eos_id[target_type], model.pad_id[target_type])
    right = (logits.argmax(dim=-1) == target)[valid_mask(target, model.pad_id[target_type])]
    assert right.float().mean() > 0.99
    said = model.generate(source, temperature=0.0, max_length=target.shape[1] + 8, **types)
    exact = [is_exact(row, one, model, target_type) for row, one in zip(said, rows[target_type], strict=True)]
    assert sum(exact) == PAIRS
