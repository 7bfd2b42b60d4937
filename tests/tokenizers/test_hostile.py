"""Hostile arguments of all tokenizers: each gives a right result or an error that names the argument."""

import functools
import warnings

import hostile
import numpy as np
import pytest
import torch
from babble import babble
from hypothesis import given, settings
from hypothesis import strategies as st

from spear_tts_pytorch.tokenizers.consecutive import UniqueConsecutive, expand
from spear_tts_pytorch.tokenizers.mel import MelSettings
from spear_tts_pytorch.tokenizers.mel_kmeans import MelKmeans
from spear_tts_pytorch.tokenizers.semantic import tokenize_clips, tokenize_waveform
from spear_tts_pytorch.tokenizers.text import ByteTokenizer, CharacterTokenizer

RATE, K = 8000, 4
WAV = torch.from_numpy(babble(0, 0.3, RATE))
TEXTS = ["ab", "b a"]
MEL = MelSettings.for_audio(RATE, None, 0.02, num_mels=40, features="mfcc")


def mel(**options):
    generator = torch.Generator().manual_seed(0)
    defaults = dict(
        centroids=torch.randn(K, MEL.dim, generator=generator),
        cluster_log_mel=torch.randn(K, MEL.num_mels, generator=generator),
        run_lengths=torch.ones(K),
        settings=MEL,
    )
    return MelKmeans(**{**defaults, **options})


TOKENIZER, CHARACTERS = mel(), CharacterTokenizer("ab ")


def fitted(**options):
    defaults = dict(clips=[WAV.numpy()], sample_hz=RATE, num_clusters=K, progress=False)
    return MelKmeans.fit(**{**defaults, **options})


def are_ids(found, most=K):
    rows = found if isinstance(found, (list, tuple)) else [found]
    return all(row.dtype == torch.int64 and bool(((row >= -1) & (row < max(most, 257))).all()) for row in rows)


def are_texts(found):
    return isinstance(found, list) and all(isinstance(text, str) for text in found)


def is_tokenizer(found):
    return are_ids(found(WAV)) if hasattr(found, "codebook_size") else are_ids(found.encode(["a"]), found.vocab_size)


def is_sound(found):
    return found.ndim == 1 and bool(torch.isfinite(found).all())


def lacks_a(call):
    """A tokenizer that was fitted on other texts does not know "a", which is right."""

    def made(**options):
        found = call(**options)
        assert found.vocab_size > 1
        return found

    return made


# a call, the names and defaults of its arguments, and what is right
CALLS = {
    "MelKmeans": (
        mel,
        "centroids cluster_log_mel run_lengths settings normalize unique_consecutive speaker_stats",
        is_tokenizer,
    ),
    "MelKmeans.fit": (
        fitted,
        "clips sample_hz num_clusters target_sample_hz features normalize speakers unique_consecutive hop_seconds num_mels "
        "max_frames seed progress",
        lambda found: isinstance(found, MelKmeans),
    ),
    "MelKmeans.__call__": (
        lambda **options: TOKENIZER(**{"wav": WAV, **options}),
        "wav lengths input_sample_hz flatten speakers",
        are_ids,
    ),
    "MelKmeans.encode_with_durations": (
        lambda **options: TOKENIZER.encode_with_durations(**{"wav": WAV, **options}),
        "wav lengths input_sample_hz speakers",
        are_ids,
    ),
    "MelKmeans.resynthesize": (
        lambda **options: TOKENIZER.resynthesize(**{"ids": torch.tensor([1, 2]), "iterations": 1, **options}),
        "ids durations iterations seed",
        is_sound,
    ),
    "UniqueConsecutive": (
        lambda **options: UniqueConsecutive(**{"tokenizer": TOKENIZER, **options}),
        "tokenizer",
        is_tokenizer,
    ),
    "UniqueConsecutive.__call__": (
        lambda **options: UniqueConsecutive(TOKENIZER)(**{"wav": WAV, **options}),
        "wav lengths input_sample_hz flatten",
        are_ids,
    ),
    "expand": (
        lambda **options: expand(**{"ids": torch.tensor([[1, 2]]), "durations": torch.tensor([[1, 2]]), **options}),
        "ids durations",
        lambda found: are_ids(found, 2**31),
    ),
    "tokenize_waveform": (
        lambda **options: tokenize_waveform(TOKENIZER, **{"wav": WAV, **options}),
        "wav lengths input_sample_hz",
        are_ids,
    ),
    "tokenize_clips": (
        lambda **options: tokenize_clips(TOKENIZER, **{"clips": [WAV], **options}),
        "clips input_sample_hz",
        are_ids,
    ),
    "CharacterTokenizer": (
        lacks_a(lambda **options: CharacterTokenizer(**{"symbols": "ab", **options})),
        "symbols unknown normalize",
        bool,
    ),
    "CharacterTokenizer.fit": (
        lacks_a(lambda **options: CharacterTokenizer.fit(**{"texts": TEXTS, **options})),
        "texts unknown normalize",
        bool,
    ),
    "CharacterTokenizer.encode": (
        lambda **options: CHARACTERS.encode(**{"texts": TEXTS, **options}),
        "texts",
        are_ids,
    ),
    "CharacterTokenizer.decode": (lambda **options: CHARACTERS.decode(**options), "ids", are_texts),
    "ByteTokenizer": (lambda **options: ByteTokenizer(**options), "normalize", is_tokenizer),
    "ByteTokenizer.encode": (lambda **options: ByteTokenizer()(**{"texts": TEXTS, **options}), "texts", are_ids),
    "ByteTokenizer.decode": (lambda **options: ByteTokenizer().decode(**options), "ids", are_texts),
}  # fmt: skip


def try_it(call, names, right, data):
    names = names.split()
    drawn = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True), label="names")
    given_values = {name: data.draw(st.sampled_from(hostile.HOSTILE), label=name) for name in drawn}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = hostile.outcome(lambda: call(**given_values), drawn)
    assert found is None or right(found)


@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_each_outcome_is_a_right_result_or_names_the_argument(name, data):
    if name == "MelKmeans.fit":
        pytest.importorskip("sklearn")
    try_it(*CALLS[name], data)


def each(call, names, right):
    """Calls with each hostile value as each of the arguments."""
    for name in names.split():
        for value in hostile.HOSTILE:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = hostile.outcome(functools.partial(call, **{name: value}), [name, names.split()[0]])
            assert found is None or right(found), (name, value)


def test_phonemes():
    pytest.importorskip("phonemizer")
    from spear_tts_pytorch.tokenizers.phonemes import PhonemeTokenizer

    tokenizer = PhonemeTokenizer("en-us", "ab", "unk")
    made = lambda **options: PhonemeTokenizer(**{"language": "en-us", "symbols": "ab", **options})  # noqa: E731
    fit = lambda **options: PhonemeTokenizer.fit(**{"texts": TEXTS, **options})  # noqa: E731
    each(made, "language symbols unknown", lambda found: found.vocab_size > 1)
    each(fit, "texts language unknown", lambda found: found.vocab_size > 1)
    each(tokenizer.encode, "texts", lambda found: are_ids(found, 4))
    each(tokenizer.decode, "ids", are_texts)


@pytest.fixture(scope="module")
def hubert(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.HubertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, conv_dim=[8] * 7,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("hubert")
    transformers.HubertModel(config).save_pretrained(folder)
    np.save(folder / "centroids.npy", np.random.default_rng(0).standard_normal((K, 16)).astype(np.float32))
    return folder


@pytest.mark.slow
def test_hubert(hubert):
    pytest.importorskip("sklearn")
    from spear_tts_pytorch.tokenizers.hubert import HubertWithKmeans

    paths = {"checkpoint_path": hubert, "kmeans_path": hubert / "centroids.npy", "output_layer": 1}
    tokenizer, wav = HubertWithKmeans(**paths), torch.from_numpy(babble(0, 0.3))

    def made(**options):
        try:
            return HubertWithKmeans(**{**paths, **options})
        except FileNotFoundError as error:  # right for a path that leads nowhere
            raise ValueError(f"{' '.join(options)}: {error}") from error

    def fitted(**options):
        return tokenizer.fit_kmeans(**{"dataset": [wav.numpy()], "num_clusters": 2, "progress": False, **options})

    each(made, "checkpoint_path kmeans_path target_sample_hz seq_len_multiple_of output_layer", bool)
    each(
        lambda **options: tokenizer(**{"wav_input": wav, **options}),
        "wav_input lengths input_sample_hz flatten",
        are_ids,
    )
    each(fitted, "dataset num_clusters layer sample_hz seed progress", bool)


def test_huggingface():
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    from spear_tts_pytorch.tokenizers.huggingface import HuggingFaceTokenizer

    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    tokenizer = HuggingFaceTokenizer(transformers.PreTrainedTokenizerFast(tokenizer_object=inner))
    each(HuggingFaceTokenizer, "tokenizer", bool)
    each(tokenizer.encode, "texts", lambda found: are_ids(found, 3))
    each(tokenizer.decode, "ids", are_texts)
