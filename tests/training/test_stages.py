"""The three stages: which parameters each trains, and that their items are kept apart."""

import pytest
import torch
from training_setup import make_model, make_pairs, make_speech, train_options, weights

from spear_tts_pytorch.training.stages import SemanticToTextTrainer, SpeechSpeechPretrainer, TextToSemanticTrainer


def parts(model):
    """Which parts train: by encoder layer, the decoder but for cross-attention, and so on."""

    def trains(parameters):
        flags = {parameter.requires_grad for parameter in parameters}
        assert len(flags) == 1, "a part is frozen by halves"
        return flags.pop()

    decoder = {id(p): p for p in model.target_transformer.parameters()}
    cross = {id(p): p for layer in model.target_transformer.layers for p in layer.cross_attention.parameters()}
    flags = {f"encoder {i}": trains(layer.parameters()) for i, layer in enumerate(model.source_transformer.layers)}
    flags["decoder"] = trains(p for key, p in decoder.items() if key not in cross)
    flags["cross"] = trains(cross.values())
    for modality in ("speech", "text"):
        flags[modality] = trains([*model.token_emb[modality].parameters(), model.start_token[modality]])
    return {name for name, flag in flags.items() if flag}


def test_what_each_stage_trains():
    encoder = {f"encoder {i}" for i in range(4)}
    everything = {*encoder, "decoder", "cross", "speech", "text"}

    def trained(trainer_class, data, **options):
        model = make_model(source_depth=4).requires_grad_(trainer_class is SpeechSpeechPretrainer)
        trainer_class(model, dataset=data, **options, **train_options())
        return parts(model)

    assert trained(SpeechSpeechPretrainer, make_speech()) == everything
    assert trained(SemanticToTextTrainer, make_pairs()) == {"decoder", "cross", "text"}
    assert trained(SemanticToTextTrainer, make_pairs(), freeze_encoder=False) == everything
    forward = TextToSemanticTrainer
    assert trained(forward, make_pairs()) == {"encoder 0", "encoder 1", "cross", "text"}
    assert trained(forward, make_pairs(), train_encoder_layers=1) == {"encoder 0", "cross", "text"}
    assert trained(forward, make_pairs(), freeze_cross_attention=True) == {"encoder 0", "encoder 1", "text"}
    assert trained(forward, make_pairs(), freeze_decoder=False) == everything - {"encoder 2", "encoder 3"}
    assert trained(forward, make_pairs(), freeze="none") == everything
    assert trained(forward, make_pairs(), freeze_encoder_layers_below=2) == {"encoder 2", "encoder 3", "text"}
    for options in ({"freeze": "none"}, {"train_encoder_layers": 1}):
        with pytest.raises(ValueError, match="freeze_encoder_layers_below excludes"):
            trained(forward, make_pairs(), freeze_encoder_layers_below=2, **options)
    with pytest.raises(ValueError, match="freeze='none' trains the whole encoder"):
        trained(forward, make_pairs(), freeze="none", train_encoder_layers=1)
    with pytest.raises(ValueError, match="freeze must be one of paper, none, got"):
        trained(forward, make_pairs(), freeze="all")


FEED_FORWARD = ["feed_forward.norm.gamma", "feed_forward.to_inner.bias", "feed_forward.to_inner.weight"]
FEED_FORWARD += ["feed_forward.to_out.bias", "feed_forward.to_out.weight"]
ATTENTION = ["attention.norm.gamma", "attention.to_kv.weight", "attention.to_out.weight", "attention.to_q.weight"]
CROSS = ["cross_attention.norm.gamma", "cross_attention.null_kv", "cross_attention.to_kv.weight"]
CROSS += ["cross_attention.to_out.weight", "cross_attention.to_q.weight"]
NAMES = {
    **{f"encoder {i}": [f"source_transformer.layers.{i}.{n}" for n in ATTENTION + FEED_FORWARD] for i in range(3)},
    "encoder norm": ["source_transformer.final_norm.gamma"],
    "decoder": [f"target_transformer.layers.0.{name}" for name in ATTENTION + FEED_FORWARD]
    + ["target_transformer.final_norm.gamma"],
    "cross": [f"target_transformer.layers.0.{name}" for name in CROSS],
    "speech": ["token_emb.speech.weight", "start_token.speech"],
    "text": ["token_emb.text.weight", "start_token.text"],
    "ctc": ["to_ctc_logits.bias", "to_ctc_logits.weight"],
    "exit": [f"early_exit.{name}" for name in FEED_FORWARD] + ["early_exit.norm.gamma", "early_exit.to_logits.weight"],
}
HEADS = ["text", "ctc", "exit"]


@pytest.mark.parametrize(
    "trainer_class, data, options, trained",
    [
        (SpeechSpeechPretrainer, make_speech, {}, list(NAMES)),
        (SemanticToTextTrainer, make_pairs, {}, ["decoder", "cross", *HEADS]),
        (TextToSemanticTrainer, make_pairs, {}, ["encoder 0", "cross", *HEADS]),
        (TextToSemanticTrainer, make_pairs, {"train_encoder_layers": 2}, ["encoder 0", "encoder 1", "cross", *HEADS]),
        (
            TextToSemanticTrainer,
            make_pairs,
            {"freeze_encoder_layers_below": 2},  # of releases up to 0.4.8
            ["encoder 2", "encoder norm", *HEADS],
        ),
        (TextToSemanticTrainer, make_pairs, {"freeze": "none"}, list(NAMES)),
    ],
)
def test_names_of_what_each_stage_trains_and_moves(trainer_class, data, options, trained):
    model = make_model(source_depth=3, ctc=True, target_early_exit_layer=1)
    assert sorted(sum(NAMES.values(), [])) == sorted(name for name, _ in model.named_parameters())
    trainer = trainer_class(model, dataset=data(), **options, **train_options(num_warmup_steps=0))
    expected = sorted(name for part in trained for name in NAMES[part])
    assert sorted(name for name, parameter in model.named_parameters() if parameter.requires_grad) == expected
    before = weights(trainer)
    trainer.train_step()
    moved = {name for name, value in weights(trainer).items() if not torch.equal(value, before[name])}
    assert moved <= set(expected) and moved


@pytest.mark.slow
def test_pretraining_on_crops_teaches_no_ends_and_finetuning_does():
    """Crops of one running row of ids: without ends the pretrained model goes on, then text to speech ends its rows."""
    crops = [torch.arange(start, start + 6) % 9 for start in range(12)]
    model = make_model(num_semantic_token_ids=9)
    options = dict(num_train_steps=60, num_warmup_steps=2, batch_size=6, lr=1e-2, results_folder=None, progress=False)
    eos = model.eos_id["speech"]

    def ends(**source):
        return model.eval().generate(**source, max_length=12, temperature=0.0).eq(eos).any(dim=1)

    trainer = SpeechSpeechPretrainer(model, dataset=crops, reconstruct_seq=True, end=False, **options)
    trainer.train()
    assert trainer.validate() < 1.5
    assert not ends(source=crops, source_type="speech").any()
    pairs = [(row[:4], row[:2] % 5 + 1) for row in crops]
    TextToSemanticTrainer(model, dataset=pairs, freeze="none", **options).train()
    assert ends(source=[text for _, text in pairs]).all()


def test_a_run_knows_whether_ends_are_targets(tmp_path):
    SpeechSpeechPretrainer(make_model(), dataset=make_speech(), end=False, **train_options(tmp_path)).train()
    with pytest.raises(ValueError, match="end"):
        SpeechSpeechPretrainer(make_model(), dataset=make_speech(), **train_options(tmp_path)).train()
