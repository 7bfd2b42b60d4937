"""What the model takes: every form of the same batch gives the same numbers, and what is wrong is named."""

import numpy as np
import pytest
import small
import torch

from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.objectives import SpeechSpeechPretrainWrapper

TYPES, SPEECH = small.TEXT_TO_SPEECH, small.SPEECH_TO_TEXT
INTEGERS = (torch.uint16, torch.uint32, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def lists_of_codes(texts):
    """A tokenizer of texts that returns lists, padded to a fixed length as some do."""
    return [[ord(letter) - ord("a") + 1 for letter in text] + [0] * (40 - len(text)) for text in texts]


def make_model(**options):
    return small.make_model(**options).eval()


@pytest.fixture
def model():
    return make_model(wav2vec=small.Frames(100, 20), tokenizer_encode=lists_of_codes)


TEXT, SPOKEN = torch.tensor([[3, 1, 20, 0], [8, 9, 2, 5]]), torch.tensor([[7, 0, 12], [4, 19, -1]])


@pytest.mark.parametrize("dtype", INTEGERS)
def test_the_integer_dtype_changes_nothing(model, dtype):
    wanted = model(TEXT, SPOKEN, return_loss=True, **TYPES)
    torch.testing.assert_close(model(TEXT.to(dtype), SPOKEN, return_loss=True, **TYPES), wanted)
    mask = SPOKEN != -1
    target = SPOKEN.masked_fill(~mask, 5).to(dtype)  # a dtype without negative numbers says by a mask what is padding
    torch.testing.assert_close(model(TEXT, target, target_mask=mask, return_loss=True, **TYPES), wanted)


def test_arrays_and_lists_of_rows_are_batches(model):
    wanted = model(TEXT, SPOKEN, **TYPES)
    rows = [TEXT[0, :3], TEXT[1]], [SPOKEN[0], SPOKEN[1, :2]]
    torch.testing.assert_close(model(*rows, **TYPES), wanted)
    torch.testing.assert_close(model(*([row.numpy() for row in side] for side in rows), **TYPES), wanted)
    torch.testing.assert_close(model(*([row.tolist() for row in side] for side in rows), **TYPES), wanted)
    torch.testing.assert_close(model(TEXT.numpy(), SPOKEN.numpy(), **TYPES), wanted)
    torch.testing.assert_close(model(["cat", "hibe"], SPOKEN, **TYPES), wanted)


def test_waveforms_are_batches_with_lengths_or_lists(model):
    wav = torch.rand(2, 900, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([900, 400])
    ids = small.Frames(100, 20)(wav, lengths)
    wanted = model(ids, TEXT, **SPEECH)
    torch.testing.assert_close(model(wav, TEXT, source_lengths=lengths, **SPEECH), wanted)
    torch.testing.assert_close(model([wav[0], wav[1, :400]], TEXT, **SPEECH), wanted)
    torch.testing.assert_close(model([wav[0].double().numpy(), wav[1, :400].double().numpy()], TEXT, **SPEECH), wanted)
    as_target = model(TEXT, wav, target_lengths=lengths, return_loss=True, **TYPES)
    torch.testing.assert_close(as_target, model(TEXT, ids, return_loss=True, **TYPES))
    assert model.generate([wav[0], wav[1, :400]], temperature=0.0, max_length=3, **SPEECH).shape[0] == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_waveforms_of_other_precisions_are_not_taken_for_ids(model, dtype):
    wav = torch.rand(2, 300).to(dtype)
    torch.testing.assert_close(model(wav, TEXT, **SPEECH), model(small.Frames(100, 20)(wav), TEXT, **SPEECH))


def test_a_mask_is_the_same_as_padding_and_may_leave_out_ids_inside_a_source(model):
    full = TEXT.masked_fill(TEXT == 0, 17)
    torch.testing.assert_close(model(full, SPOKEN, source_mask=TEXT != 0, **TYPES), model(TEXT, SPOKEN, **TYPES))
    hole = torch.tensor([[True, False, True, True], [True, True, True, True]])
    left_out = model(full, SPOKEN, source_mask=hole, **TYPES)
    other = model(torch.where(hole, full, 11), SPOKEN, source_mask=hole, **TYPES)
    torch.testing.assert_close(left_out, other)
    assert not torch.allclose(left_out, model(full, SPOKEN, **TYPES))


def test_ids_of_ones_own_lie_above_the_codebook():
    model = make_model(wav2vec=small.Frames(100, 20), num_semantic_token_ids=21)  # 20 is no unit: a mask, for example
    wrapper = SpeechSpeechPretrainWrapper(model, reconstruct_seq=True, mask_id=20)
    loss, logits = wrapper(SPOKEN)
    assert loss.isfinite() and logits.shape[-1] == 22


def call(model, source=TEXT, target=SPOKEN, **options):
    return model(source, target, **{**TYPES, **options})


class NeverCalled:
    codebook_size, target_sample_hz, downsample_factor = 20, 8_000, 100

    def __call__(self, wav, **options):
        raise AssertionError("tokenized before everything was checked")


@pytest.mark.parametrize(
    "wrong",
    [
        dict(target_type="song"),
        dict(target=TEXT[:1]),
        dict(target=TEXT + 30),
        dict(return_early_exit_loss=True),
        dict(ctc_weight=0.5),
        dict(cond_drop_prob=1.5),
    ],
)
def test_everything_else_is_checked_before_audio_is_tokenized(wrong):
    options = dict(source=torch.rand(2, 500), target=TEXT, return_loss=True, **SPEECH) | wrong
    with pytest.raises(ValueError):
        make_model(wav2vec=NeverCalled())(**options)
    with pytest.raises(ValueError, match="temperature"):
        make_model(wav2vec=NeverCalled()).generate(torch.rand(2, 500), temperature=-1.0, **SPEECH)


def test_lengths_of_listed_waveforms_count_and_lengths_of_ids_are_refused(model):
    wav, lengths = torch.rand(2, 900), torch.tensor([900, 400])
    listed = model([wav[0], wav[1]], TEXT, source_lengths=lengths, **SPEECH)
    torch.testing.assert_close(listed, model(wav, TEXT, source_lengths=lengths, **SPEECH))
    with pytest.raises(ValueError, match=r"source_lengths \[900, 901\] do not fit"):
        model([wav[0], wav[1]], TEXT, source_lengths=torch.tensor([900, 901]), **SPEECH)
    with pytest.raises(ValueError, match="source_lengths are for waveforms"):
        model(SPOKEN, TEXT, source_lengths=torch.tensor([3, 2]), **SPEECH)


class Convolution(torch.nn.Module):
    """A tokenizer with weights, run in inference mode as some are."""

    codebook_size, target_sample_hz, downsample_factor = 20, 8_000, 100

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv1d(1, 20, 100, stride=100)

    @torch.inference_mode()
    def forward(self, wav, flatten=True):
        return self.layer(wav[:, None]).argmax(dim=1)


def test_a_tokenizer_with_weights_gives_the_same_ids_in_any_precision():
    tokenizer = Convolution()
    model = make_model(wav2vec=tokenizer, autoset_semantic_eos_id=False)
    wav = torch.rand(4, 6_000)
    wanted = tokenizer(wav)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.to_ids(wav, "speech", "x"), wanted)
    assert torch.equal(model.to_ids(wav.double(), "speech", "x"), wanted)
    model(TEXT, wav[:2], return_loss=True, **TYPES).backward()  # ids of inference mode in a loss
    with pytest.raises(ValueError, match="NaN"):
        model.to_ids(wav / 0 * 0, "speech", "x")


def test_texts_are_padded_as_the_vocabulary_says():
    model = make_model(tokenizer_encode=lists_of_codes, text_pad_id=-1)
    together = model(["ab", "abcdefgh"], [[1, 2], [3, 4]], **TYPES)
    torch.testing.assert_close(together[:1], model(["ab"], [[1, 2]], **TYPES))


@pytest.mark.parametrize("output", [{"ids": 1}, None, torch.rand(2, 3), torch.ones(2).long(), torch.ones(3, 2).long()])
def test_what_a_text_tokenizer_may_not_return_is_named(output):
    with pytest.raises(TypeError, match=r"tokenizer_encode must turn 2 texts into ids \[2, n\]"):
        call(make_model(tokenizer_encode=lambda texts: output), ["cat", "hi"])


def test_unusual_arrays_and_empty_target_rows(model):
    wanted = model(TEXT, SPOKEN, **TYPES)
    backwards = np.ascontiguousarray(TEXT.numpy()[:, ::-1])[:, ::-1]
    torch.testing.assert_close(model(backwards.astype(">i4"), SPOKEN, **TYPES), wanted)
    empty = model(TEXT, [[], [1]], return_loss=True, **TYPES)
    torch.testing.assert_close(empty, model(TEXT, torch.tensor([[-1], [1]]), return_loss=True, **TYPES))


BAD = {
    "None": (lambda m: call(m, None), TypeError, "source must be texts, waveforms or ids, got NoneType"),
    "a row of floats": (lambda m: call(m, target=[[1, 2], [0.5]]), TypeError, r"target\[1\] is torch.float32"),
    "a row of rows": (lambda m: call(m, target=[[1, 2], [[1]]]), ValueError, r"one dimension, but target\[1\] has 2"),
    "text id too large": (lambda m: call(m, torch.tensor([[3], [31]])), ValueError, "source holds the id 31.* 0 to 30"),
    "negative text id": (lambda m: call(m, torch.tensor([[3], [-1]])), ValueError, "source holds the id -1"),
    "negative speech id": (lambda m: call(m, target=torch.tensor([[-2], [3]])), ValueError, "target holds the id -2"),
    "another codebook": (lambda m: call(m, target=torch.tensor([[3], [499]])), ValueError, "vocabulary belong together"),
    "16-bit audio": (
        lambda m: call(m, torch.tensor([[900, -31_000]] * 2), TEXT, **SPEECH),
        ValueError,
        "divide 16-bit samples by 32768",
    ),
    "empty source": (lambda m: call(m, TEXT[:, :0]), ValueError, "source has a row without any id: remove it"),
    "empty list": (lambda m: call(m, []), ValueError, "source is empty"),
    "no rows": (lambda m: call(m, TEXT[:0]), ValueError, "at least one row"),
    "row of padding": (lambda m: call(m, TEXT * torch.tensor([[1], [0]])), ValueError, "row without any id"),
    "row masked away": (lambda m: call(m, source_mask=torch.zeros(2, 4).bool()), ValueError, "row without any id"),
    "padding first": (lambda m: call(m, TEXT.flip(1)), ValueError, "pad rows on the right only"),
    "batch sizes": (lambda m: call(m, TEXT[:1]), ValueError, "source has 1 rows and target 2"),
    "one dimension": (lambda m: call(m, TEXT[0]), ValueError, r"\[batch, length\]"),
    "a float text": (lambda m: call(m, TEXT.float()), TypeError, "source must be an integer tensor of text ids"),
    "float rows": (lambda m: call(m, [TEXT[0].float()] * 2), TypeError, "rows of text ids"),
    "waveform for text": (lambda m: call(m, torch.rand(2, 500)), TypeError, "integer tensor of text ids"),
    "bool": (lambda m: call(m, TEXT > 2), TypeError, "integer tensor"),
    "one text": (lambda m: call(m, "cat"), TypeError, "give a list of texts"),
    "text for speech": (lambda m: call(m, ["cat", "hi"], TEXT, **SPEECH), TypeError, "waveforms or ids"),
    "neither": (lambda m: call(m, [{}, {}]), TypeError, r"texts, waveforms or ids, but source\[0\] is dict"),
    "mask shape": (lambda m: call(m, source_mask=torch.ones(2, 3).bool()), ValueError, r"source_mask .*\[2, 4\]"),
    "mask dtype": (lambda m: call(m, target_mask=torch.ones(2, 3)), ValueError, "target_mask must be boolean"),
    "hole in a target": (
        lambda m: call(m, target_mask=torch.tensor([[True, False, True]] * 2)),
        ValueError,
        "target has padding",
    ),
    "modality": (lambda m: call(m, target_type="audio"), ValueError, "target_type must be one of speech, text"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named(model, case):
    attempt, error, words = BAD[case]
    with pytest.raises(error, match=words):
        attempt(model)


def test_missing_tokenizers_are_named():
    with pytest.raises(ValueError, match="source is text.* pass tokenizer_encode to TextToSemantic"):
        call(make_model(), ["cat", "hi"])
    with pytest.raises(ValueError, match="target is a waveform.* pass wav2vec to TextToSemantic"):
        call(make_model(), target=torch.rand(2, 500))
    with pytest.raises(ValueError, match="num_semantic_token_ids is 19, .* codebook_size is 20"):
        make_model(wav2vec=small.Frames(100, 20), num_semantic_token_ids=19)
    with pytest.raises(ValueError, match="mask_id must be .* 0 to 19"):
        SpeechSpeechPretrainWrapper(make_model(), reconstruct_seq=True, mask_id=20)


def test_a_target_row_without_ids_needs_an_end_of_sequence_to_learn():
    target = SPOKEN.masked_fill(torch.tensor([[False], [True]]), -1)
    assert call(make_model(), target=target, return_loss=True).isfinite()
    with pytest.raises(ValueError, match="target has a row without any id"):
        call(make_model(autoset_semantic_eos_id=False), target=target, return_loss=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(semantic_pad_id=20), "semantic_pad_id 20"),
        (dict(semantic_pad_id=5), "semantic_pad_id 5"),
        (dict(text_pad_id=30), "text_pad_id 30"),
        (dict(text_pad_id=-1, ctc=True), "with ctc=True, text_pad_id is the CTC blank"),
        (dict(attn_dropout=-0.1), "attn_dropout must be at least 0"),
        (dict(ff_dropout=1.0), "ff_dropout must be at least 0 and below 1"),
        (dict(label_smoothing=1.1), "label_smoothing must be"),
        (dict(target_kv_heads=0), "target_kv_heads must be at least 1"),
        (dict(ff_mult=0.0), "ff_mult must be at least 0.0001"),
        (dict(text_position_rate=float("inf")), "text_position_rate must be a finite number"),
        (dict(num_semantic_token_ids=0), "num_semantic_token_ids must be at least 1"),
    ],
)
def test_constructor_values_that_cannot_work_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        make_model(**options)


@pytest.mark.parametrize("given", ["source_mask", "target_mask", "source_lengths", "target_lengths"])
def test_unchecked_ids_take_no_masks_and_no_lengths(given):
    ids = torch.tensor([[1, 2, 3]])
    with pytest.raises(ValueError, match="check_ids=False takes no masks"):
        make_model()(ids, ids, source_type="text", target_type="speech", check_ids=False, **{given: ids > 0})
    with pytest.raises(TypeError, match="source must be int64 ids"):
        make_model()([[1]], ids, source_type="text", target_type="speech", check_ids=False)


@pytest.mark.parametrize("size", [3.5, "3", True])
def test_vocabularies_have_whole_sizes(size):
    with pytest.raises(TypeError, match="num_text_token_ids must be a whole number"):
        make_model(num_text_token_ids=size)


def test_attributes_of_the_loss_may_change():
    """Under the names of release 0.4.8, on the model."""
    torch.manual_seed(0)
    model = make_model(cond_drop_prob=0.9, target_early_exit_layer=1, target_depth=2).train()
    source, target = torch.tensor([[1, 2, 3], [3, 2, 1], [2, 2, 1]]), torch.tensor([[3, 1], [2, 4], [1, 1]])

    def loss():
        torch.manual_seed(1)
        types = dict(source_type="text", target_type="speech", return_loss=True)
        return float(model(source, target, return_early_exit_loss=True, **types).detach())

    for name, value in (
        ("align_reg_loss_weight", 100.0),
        ("align_reg_use_logsumexp_pool", False),
        ("early_exit_layer", 2),
    ):
        before = loss()
        setattr(model, name, value)
        assert abs(loss() - before) > 1e-4, name


def test_a_model_needs_its_depths():
    with pytest.raises(TypeError, match="TextToSemantic needs the argument 'source_depth'"):
        TextToSemantic(16, target_depth=1, num_text_token_ids=5, num_semantic_token_ids=5)


def test_sources_are_read_by_to_ids_of_the_model():
    class Reading(TextToSemantic):
        seen = ()

        def to_ids(self, x, modality, name, *arguments, **options):
            self.seen = (*self.seen, name)
            return super().to_ids(x, modality, name, *arguments, **options)

    sizes = dict(source_depth=1, target_depth=1, heads=2, dim_head=8, num_text_token_ids=5, num_semantic_token_ids=5)
    model = Reading(16, **sizes)
    model.generate([[1, 2]], max_length=2)
    assert model.seen == ("source",) and repr(model).startswith("Reading(dim 16")
