"""Same weights, same numbers as release 0.4.8, wherever that was right.

Each test goes through all that is recorded of its kind, and `test_nothing_recorded_is_left_out` holds the kinds against
the folder: what no test reads stands in one of the lists of exclusions, with its reason.
"""

import json

import pytest
import torch
from safetensors.torch import load_file
from strategies import beam_search

from spear_tts_pytorch.decoding.generate import encoded
from spear_tts_pytorch.decoding.options import DecodingOptions
from spear_tts_pytorch.model.pretrained import rename_old_keys
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.objectives import SpeechSpeechPretrainWrapper, deletion_mask, take
from spear_tts_pytorch.tokens import mask_after_eos, strip
from spear_tts_pytorch.training.stages import TextToSemanticTrainer

PAIRS = [(source, target) for source in ("speech", "text") for target in ("speech", "text")]
CONFIGS = ["mha", "gqa", "flash", "early_exit", "early_exit_detach", "cfg_logsumexp", "cfg_maxpool", "depths"]
CONFIGS += ["custom_dims", "no_auto_eos"]
TRAINED = ["trained_mha", "trained_gqa"]
DECODED = ("text__speech", "speech__text")

# how each kind of recorded logits, and of gradient norms, comes about
LOGITS = {
    "logits": {},
    "logits_dropped": {"cond_drop_prob": 1.0},
    "loss_logits": {"return_loss": True, "return_logits": True},
}
GRADIENTS = {
    "text__speech": {},
    "text__speech_with_exit": {"return_early_exit_loss": True},
    "text__speech_dropped_align": {"cond_drop_prob": 1.0},
}

# what the folder holds and no test here reads
OTHER_FILES = {
    "README.md": "prose",
    "legacy_pairs": "rows of pairs, read in test_dataset.py",
    "legacy_pairs.json": "rows of pairs, read in test_dataset.py",
    "hubert_tiny": "a tokenizer of waveforms, nothing of the model",
}
OTHER_ENTRIES = {
    "reference": "prose: which release",
    "torch": "prose: under which release of torch",
    "notes": "prose",
}
OTHER_IN_CONFIG = {
    "seed": "of the reference's initialisation; the weights are in a file",
    "note": "prose",
    "padded_vs_single_row_max_abs": "how exact the recording is; for ours see test_a_padded_row_is_the_row_alone",
    "flash_vs_plain_max_abs_on_valid": "how exact the recording is; flash is compared like every configuration",
}
OTHER_IN_TRAINER = {
    "original_name": "prose",
    "written_by": "prose",
    "files_in_results_folder": "how the old trainer named its files",
    "torch_load_weights_only_true": "prose; `load` uses it",
    "steps_the_reference_resumes_at": "the optimizer of an old file is left behind: training begins at step 0 with its weights",
    "optim_param_names": "as above",
    "optim_state_param_count": "as above",
    "scheduler": "as above",
    "lr_after_each_step": "the old schedule never reached the full rate; ours is in test_schedule.py",
}


def same(got, wanted, key):
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0, msg=lambda text: f"{key}: {text}")


def near(number):
    return pytest.approx(number, abs=1e-4)


@pytest.fixture(scope="module")
def index(fixtures):
    return json.loads((fixtures / "index.json").read_text())


@pytest.fixture(scope="module")
def load(fixtures, index):
    """`load(name)`: the model of a configuration in evaluation mode, and what is recorded of it in the index."""

    def load(name):
        numbers = index["configs"][name]
        model = TextToSemantic(**numbers["kwargs"])
        model.load_weights(load_file(fixtures / f"{name}.state.safetensors"), source=name)
        return model.eval(), numbers

    return load


@pytest.fixture(scope="module")
def run(fixtures):
    """`run(model, key, **options)`: the model on the recorded inputs, for a key such as "text__speech"."""
    inputs = load_file(fixtures / "inputs.safetensors")
    assert set(inputs) == {f"{side}_{modality}" for side in ("source", "target") for modality in ("speech", "text")}

    def run(model, key, rows=slice(None), **options):
        source, target = key.split("__")
        ids = inputs[f"source_{source}"][rows], inputs[f"target_{target}"][rows]
        return model(*ids, source_type=source, target_type=target, **options)

    run.inputs = inputs
    return run


def test_nothing_recorded_is_left_out(fixtures, index):
    files = {"index.json", "inputs.safetensors", "pretrain.safetensors"}
    files |= {f"trainer_checkpoint.{end}" for end in ("pt", "json", "expected.safetensors")}
    files |= {f"{name}.{end}.safetensors" for name in CONFIGS + TRAINED for end in ("state", "expected")}
    assert {path.name for path in fixtures.iterdir()} == files | set(OTHER_FILES)
    entries = {"num_text", "num_speech", "pad", "eos", "pairs", "configs", "pretrain"}
    assert set(index) == entries | set(OTHER_ENTRIES)
    assert list(index["configs"]) == CONFIGS + TRAINED

    for name in CONFIGS:
        wanted = {"kwargs", "losses", "grad_norms", "reference_bug"}
        wanted |= {"early_exit"} if name.startswith("early_exit") else set()
        wanted |= {"align_reg"} if name.startswith("cfg") else set()
        assert set(index["configs"][name]) - set(OTHER_IN_CONFIG) == wanted, name
    for name in TRAINED:
        assert set(index["configs"][name]) == {"kwargs", "decode", "reference_bug"}, name
    bugs = {(name, bug) for name in CONFIGS + TRAINED for bug in index["configs"][name]["reference_bug"]}
    # right answers to all of these are below
    aligned = {("cfg_logsumexp", "align_reg_batch_1"), ("cfg_maxpool", "align_reg_batch_1")}
    assert bugs == aligned | {("trained_gqa", "spec_decode")}


def test_vocabularies(index, load):
    for name in CONFIGS + TRAINED:
        model, _ = load(name)
        assert (model.pad_id, model.eos_id) == (index["pad"], index["eos"])
        assert (model.num_text_token_ids, model.num_semantic_token_ids) == (index["num_text"], index["num_speech"])
    assert [tuple(pair) for pair in index["pairs"]] == PAIRS


@pytest.mark.parametrize("name", CONFIGS)
def test_logits(fixtures, load, run, name):
    model, numbers = load(name)
    expected = load_file(fixtures / f"{name}.expected.safetensors")
    kinds = [kind for kind in LOGITS if kind != "logits_dropped" or numbers["kwargs"].get("cond_drop_prob")]
    keys = {f"{kind}__{source}__{target}" for kind in kinds for source, target in PAIRS}
    assert set(expected) == keys | {"valid__speech", "valid__text"}
    for key, wanted in expected.items():
        kind, pair = key.split("__", 1)
        if kind == "valid":
            real = run.inputs[f"target_{pair}"] != model.pad_id[pair]
            assert torch.equal(wanted, torch.cat((torch.ones(len(real), 1, dtype=torch.bool), real), dim=1)), key
            continue
        got = run(model, pair, **LOGITS[kind])
        if kind == "loss_logits":  # 0.4.8 gave these as [b, v, n]
            wanted, got = wanted.transpose(1, 2), got[1]
        valid = expected[f"valid__{pair.split('__')[1]}"][:, : wanted.shape[1]]
        assert got.shape == wanted.shape, key
        same(got[valid], wanted[valid], key)


@pytest.mark.parametrize("name", CONFIGS)
def test_losses(load, run, name):
    model, numbers = load(name)
    assert set(numbers["losses"]) == {f"{source}__{target}" for source, target in PAIRS}
    for key, wanted in numbers["losses"].items():
        assert run(model, key, return_loss=True).item() == near(wanted), key


@pytest.mark.parametrize("name", CONFIGS)
def test_gradient_norms(load, run, name):
    model, numbers = load(name)
    modes = {"text__speech"} | ({"text__speech_with_exit"} if model.target_has_early_exit else set())
    modes |= {"text__speech_dropped_align"} if model.cond_drop_prob else set()
    assert set(numbers["grad_norms"]) == modes
    for mode, norms in numbers["grad_norms"].items():
        wanted = {key: norm for key, norm in norms.items() if key != "semantic_token_emb.weight"}
        rename_old_keys(wanted)
        wanted["token_emb.speech.weight"] = norms["semantic_token_emb.weight"]  # its other name in 0.4.8
        assert len(wanted) == len(norms)
        model.zero_grad()
        run(model, "text__speech", return_loss=True, **GRADIENTS[mode]).backward()
        got = {key: value.grad.norm().item() for key, value in model.named_parameters() if value.grad is not None}
        assert set(got) == set(wanted), mode
        # the regulariser's gradients are small: 1e-4 would hide them
        wrong = {key: (got[key], norm) for key, norm in wanted.items() if got[key] != pytest.approx(norm, abs=1e-5)}
        assert not wrong, mode


@pytest.mark.parametrize("name", ["early_exit", "early_exit_detach"])
def test_early_exit_losses(load, run, name):
    model, numbers = load(name)
    main = run(model, "text__speech", return_loss=True).item()
    total = run(model, "text__speech", return_loss=True, return_early_exit_loss=True).item()
    assert {"main": main, "total": total, "exit": total - main} == near(numbers["early_exit"])


@pytest.mark.parametrize("name", ["cfg_logsumexp", "cfg_maxpool"])
def test_alignment_regularizer(load, run, name):
    model, numbers = load(name)
    assert set(numbers["align_reg"]) == {f"{source}__{target}" for source, target in PAIRS}
    for key, wanted in numbers["align_reg"].items():
        source, target = key.split("__")
        options = dict(return_loss=True, cond_drop_prob=1.0)
        total = run(model, key, **options).item()
        without = run(model, key, should_sim_regularize=False, **options).item()
        assert wanted["applies"] == (source != target)
        assert model.align_reg_loss_weight == wanted["weight"]
        assert (total, without) == near((wanted["total"], wanted["dropped_ce"])), key
        # it is itself no larger than 1e-3; the last digit of a loss is 1e-6
        assert total - without == pytest.approx(wanted["weighted_align_reg"], abs=5e-6), key
        # a single row has nothing to be aligned with (0.4.8: nan)
        alone = run(model, key, slice(1), **options).item()
        assert alone == run(model, key, slice(1), should_sim_regularize=False, **options).item()


def contents(model, target, rows):
    return [strip(row, model.pad_id[target], model.eos_id[target]).tolist() for row in rows]


@pytest.mark.parametrize("name", TRAINED)
def test_greedy(fixtures, load, name):
    model, numbers = load(name)
    expected = load_file(fixtures / f"{name}.expected.safetensors")
    kinds = ["greedy", "greedy_cut"] + (["greedy_cfg3"] if model.cond_drop_prob else [])
    keys = {f"{kind}__{pair}" for kind in kinds for pair in DECODED}
    assert {key for key in numbers["decode"] if key.startswith("greedy")} == keys
    for key in keys:
        kind, source_type, target_type = key.split("__")
        options = numbers["decode"][key]
        # 0.4.8 left ids behind end-of-sequence where max_length ended the loop
        wanted = expected[f"{key}__correct" if kind == "greedy_cut" else key]
        eos, pad = model.eos_id[target_type], model.pad_id[target_type]
        if kind == "greedy_cfg3":
            wanted = mask_after_eos(wanted, eos, pad)
        if kind == "greedy_cut":
            assert options["reference_bug"]
            assert torch.equal(mask_after_eos(expected[f"{key}__reference"], eos, pad), wanted)
        call = dict(source_type=source_type, target_type=target_type, max_length=options["max_length"])
        call |= dict(cond_scale=options.get("cond_scale", 1.0))
        source = expected[f"source_{source_type}"]
        ways = [{"temperature": 0.0}, {"filter_fn_kwargs": {"k": 1}}]
        for way in ways:
            got = model.generate(source, **call, **way)
            assert got.tolist() == wanted.tolist(), (key, way)
        crowd = [1, 0, 0, 2, 0, 0, 0, 0, 0]  # so large that rows which ended do not leave the batch at once
        got = model.generate(source[crowd], temperature=0.0, **call)
        assert got.tolist() == wanted[crowd].tolist(), key
        if "eos_reached" in options:
            assert (wanted == eos).any(dim=-1).tolist() == options["eos_reached"]
        if "min_top2_logit_gap" in options:
            logits = model(source, wanted, source_type=source_type, target_type=target_type)[:, :-1]
            best = logits[wanted != pad].topk(2).values
            assert (best[:, 0] - best[:, 1]).min().item() == near(options["min_top2_logit_gap"])


@pytest.mark.parametrize("name", TRAINED)
def test_beam_search(fixtures, load, name):
    model, numbers = load(name)
    expected = load_file(fixtures / f"{name}.expected.safetensors")
    keys = {f"{kind}__{pair}" for kind in ("beam4", "beam4_temp2.5") for pair in DECODED}
    assert {key for key in numbers["decode"] if key.startswith("beam")} == keys
    for key in keys:
        kind, source_type, target = key.split("__")
        options, source = numbers["decode"][key], expected[f"source_{source_type}"]
        call = dict(source_type=source_type, target_type=target, beam_search_decode=True, return_scores=True)
        call |= dict(beam_size=options["beam_size"], max_length=options["max_length"])
        call |= dict(temperature=options["temperature"])
        batch, scores = model.generate(source, **call)
        batch = contents(model, target, batch)
        assert [row["row"] for row in options["rows"]] == list(range(len(source)))
        for row in options["rows"]:
            i = row["row"]
            alone, score = model.generate(source[i : i + 1], **call)
            oracle = torch.tensor(row["oracle"])
            # text id 0, padding, is never generated here; 0.4.8 could, but in none of these is it the best
            assert alone[0].tolist() == row["oracle"], (key, i)
            assert batch[i] == contents(model, target, [oracle])[0], (key, i)
            assert (score.item(), scores[i].item()) == near((row["oracle_logp"],) * 2), (key, i)
            for ids, log_prob, wrong in reference_beams(row):
                assert wrong or (ids, log_prob) == (row["oracle"], near(score.item())), (key, i)
        if kind == "beam4":
            reference = contents(model, target, expected[f"beam4_batch3__{source_type}__{target}__reference"])
            for row, ids, wanted in zip(options["rows"], batch, reference, strict=True):
                assert row["reference_bug_batch3"] or ids == wanted, key


def reference_beams(row):
    """Ids, log-probability and whether they are wrong, of each beam search of 0.4.8 on a row."""
    if "reference" in row:
        return [(row["reference"], row["reference_logp"], row["reference_bug"])]
    batches = ("batch1", "batch3")
    return [(row[batch], row[f"logp_{batch}"], row[f"reference_bug_{batch}"]) for batch in batches]


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("pair", DECODED)
def test_n_best(fixtures, load, name, pair):
    model, numbers = load(name)
    source_type, target = pair.split("__")
    options = numbers["decode"][f"beam4__{pair}"]
    source = load_file(fixtures / f"{name}.expected.safetensors")[f"source_{source_type}"]
    step, cache = encoded(model, source, DecodingOptions(source_type=source_type, target_type=target))
    result = beam_search(
        step,
        cache,
        len(source),
        beam_size=options["beam_size"],
        n_best=options["beam_size"],
        eos_id=model.eos_id[target],
        pad_id=model.pad_id[target],
        max_length=options["max_length"],
        temperature=options["temperature"],
        forbid_ids=[0] if target == "text" else [],
    )
    for row, got in zip(options["rows"], result.n_best, strict=True):
        assert [one.ids.tolist() for one in got] == [beam["tokens"] for beam in row["oracle_beams"]]
        assert [one.score for one in got] == near([beam["logp"] for beam in row["oracle_beams"]])


def test_speculative_decoding_of_the_best_id_is_greedy(fixtures, load):
    model, numbers = load("trained_gqa")
    source = load_file(fixtures / "trained_gqa.expected.safetensors")["source_text"]
    wanted = [row["correct_greedy"] for row in numbers["reference_bug"]["spec_decode"]["batch1"].values()]
    call = dict(source_type="text", target_type="speech", spec_decode=True, filter_fn_kwargs={"k": 1}, max_length=24)
    alone = [model.generate(source[i : i + 1], **call)[0].tolist() for i in range(len(source))]
    assert alone == wanted
    assert contents(model, "speech", model.generate(source, **call)) == [ids[:-1] for ids in wanted]


@pytest.mark.parametrize("name", TRAINED)
def test_nothing_decoded_is_left_out(fixtures, load, name):
    model, numbers = load(name)
    expected = load_file(fixtures / f"{name}.expected.safetensors")
    guided = {f"greedy_cfg3__{pair}" for pair in DECODED} if model.cond_drop_prob else set()
    greedy = {f"greedy__{pair}" for pair in DECODED} | guided
    cut = {f"greedy_cut__{pair}" for pair in DECODED}
    beams = {f"{kind}__{pair}" for kind in ("beam4", "beam4_temp2.5") for pair in DECODED}
    assert set(numbers["decode"]) == greedy | cut | beams
    tensors = greedy | {f"{key}__{end}" for key in cut for end in ("correct", "reference")}
    tensors |= {f"beam4_batch3__{pair}__reference" for pair in DECODED}
    assert set(expected) == tensors | {"source_speech", "source_text"}


PRETRAIN = {
    "loss_deleted_only": {},
    "loss_reconstruct": {"reconstruct_seq": True},
    "loss_reconstruct_mask_id_3": {"reconstruct_seq": True, "mask_id": 3},
}


def test_pretraining(fixtures, index, load, monkeypatch):
    recorded, wanted = load_file(fixtures / "pretrain.safetensors"), index["pretrain"]
    assert set(recorded) == {"tokens", "noise", "delete_mask", "source", "deleted"}
    assert set(wanted) == set(PRETRAIN) | {"state", "rule"}
    tokens, deleted = recorded["tokens"], recorded["delete_mask"]
    assert torch.equal(take(tokens, ~deleted, -1), recorded["source"])
    assert torch.equal(take(tokens, deleted, -1), recorded["deleted"])

    # 0.4.8 deleted where argsort(noise) is small, ours where the rank of the noise is: so draw argsort(noise)
    draw = recorded["noise"].argsort(dim=-1) / tokens.shape[1]
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: draw)
    assert torch.equal(deletion_mask(tokens != -1, 0.6), deleted)
    model, _ = load(wanted["state"].removesuffix(".state.safetensors"))
    for key, options in PRETRAIN.items():
        loss, _ = SpeechSpeechPretrainWrapper(model, **options)(tokens)
        assert loss.item() == near(wanted[key]), key


def test_trainer_checkpoint(fixtures):
    file = fixtures / "trainer_checkpoint.pt"
    notes = json.loads(file.with_suffix(".json").read_text())
    assert set(notes) == {"kwargs", "keys"} | set(OTHER_IN_TRAINER)
    expected = load_file(fixtures / "trainer_checkpoint.expected.safetensors")
    assert set(expected) == {"source_text", "target_speech", "logits"}

    def logits(model):
        types = dict(source_type="text", target_type="speech")
        return model.eval()(expected["source_text"], expected["target_speech"], **types)

    model = TextToSemantic(**notes["kwargs"])
    package = model.load(file)
    assert list(package) == notes["keys"]
    same(logits(model), expected["logits"], "load")

    pairs = [(torch.tensor([1, 2]), torch.tensor([1, 2]))]
    options = dict(num_train_steps=12, num_warmup_steps=3, batch_size=1, results_folder=None, progress=False)
    trainer = TextToSemanticTrainer(TextToSemantic(**notes["kwargs"]), dataset=pairs, **options)
    trainer.load(file)
    same(logits(trainer.model), expected["logits"], "trainer.load")
    assert int(trainer.steps) == 0  # its weights are all an old file gives
