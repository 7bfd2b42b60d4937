"""Configurations that are damaged or hostile: one ValueError with the path, before memory is taken or code is imported."""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import make_model

from spear_tts_pytorch import CharacterTokenizer, TextToSemantic
from spear_tts_pytorch.cli import main

PANIC = '{"version":"1.0","model":{"type":"WordLevel","vocab":{"a":4294967290},"unk_token":"a"}}'


def saved(folder):
    texts = CharacterTokenizer("abc")
    make_model(tokenizer_encode=texts, num_text_token_ids=None).save_pretrained(folder)
    return folder / "config.json"


TEXTS = {
    "deep": "[" * 100_000,
    "deep objects": '{"a":' * 500 + "1" + "}" * 500,
    "not UTF-8": b"\xff\xfe{}",
    "NaN": '{"arguments": {"dim": NaN}}',
    "a list": "[1]",
}
ARGUMENTS = [
    ("dim", "32"),
    ("dim", 65536),
    ("dim", 10**400),
    ("dim", True),
    ("dim", None),
    ("source_depth", 10**6),
    ("heads", 2**30),
    ("ff_mult", 1e300),
    ("num_text_token_ids", -5),
    ("num_semantic_token_ids", 2**30),
    ("attn_dropout", "none"),
]
TOKENIZERS = [
    [1],
    {},
    {"type": [1]},
    {"type": "characters"},
    {"type": "characters", "symbols": [1]},
    {"type": "characters", "symbols": "abc"},
    {"type": "characters", "symbols": [chr(0x10000 + i) for i in range(200_000)]},
    {"type": "bytes", "normalize": "yes"},
    {"type": "phonemes"},
    {"type": "huggingface"},
    {"type": "huggingface", "tokenizer": "{"},
    {"type": "huggingface", "tokenizer": PANIC},
]


def refused(folder):
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError) as error:
        TextToSemantic.from_pretrained(folder)
    assert str(folder) in str(error.value)
    assert time.monotonic() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


@pytest.mark.parametrize("name", TEXTS)
def test_a_configuration_that_is_no_object(tmp_path, name):
    text = TEXTS[name]
    saved(tmp_path).write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(tmp_path)


@pytest.mark.parametrize(("name", "value"), ARGUMENTS, ids=lambda value: str(value)[:20])
def test_an_argument_that_cannot_be(tmp_path, name, value):
    path = saved(tmp_path)
    config = json.loads(path.read_text())
    config["arguments"][name] = value
    path.write_text(json.dumps(config) if value != 10**400 else json.dumps(config))
    refused(tmp_path)


@pytest.mark.parametrize("value", TOKENIZERS, ids=lambda value: str(value)[:40])
def test_a_text_tokenizer_that_cannot_be(tmp_path, value):
    path = saved(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "text_tokenizer": value}))
    refused(tmp_path)


def test_the_shell_says_it_in_a_line(tmp_path, capsys):
    saved(tmp_path).write_text("[" * 100_000)
    assert main(["generate", str(tmp_path), "abc"]) == 2
    said = capsys.readouterr().err.strip()
    assert "config.json" in said and said.count("\n") == 0


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_mutated_configuration_loads_the_same_or_is_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("mutated")
    path = saved(folder)
    config = json.loads(path.read_text())
    place = data.draw(st.sampled_from([config, config["arguments"], config["text_tokenizer"]]))
    name = data.draw(st.sampled_from(sorted(place)))
    if data.draw(st.booleans()):
        place[name] = data.draw(VALUES)
    else:
        del place[name]
    path.write_text(json.dumps(config))
    try:
        model = TextToSemantic.from_pretrained(folder)
    except (ValueError, FileNotFoundError) as error:
        assert str(folder) in str(error)
    else:
        assert model.dim == 16 and len(model.source_transformer.layers) == 1


@pytest.mark.slow
def test_code_beside_an_encoder_is_not_run_whatever_the_terminal_answers(tmp_path):
    make_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "semantic_tokenizer": True}))
    encoder = tmp_path / "semantic_tokenizer" / "encoder"
    encoder.mkdir(parents=True)
    numbers = {"codebook_size": 0, "target_sample_hz": 16000, "seq_len_multiple_of": None, "output_layer": 1}
    kind = {"type": "hubert_kmeans", "format_version": 1, "normalize": False}
    (tmp_path / "semantic_tokenizer" / "tokenizer.json").write_text(json.dumps({**kind, **numbers}))
    (encoder / "config.json").write_text('{"model_type":"m","auto_map":{"AutoConfig":"evil.C"}}')
    (encoder / "evil.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom transformers import PretrainedConfig\n"
        "class C(PretrainedConfig):\n    model_type = 'm'\n"
    )
    code = f"from spear_tts_pytorch import TextToSemantic; TextToSemantic.from_pretrained({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], input="y\ny\n", capture_output=True, text=True)
    assert "ValueError: checkpoint_path" in done.stderr
    assert not Path(tmp_path / "ran").exists()
