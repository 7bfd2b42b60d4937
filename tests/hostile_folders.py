"""Hostile folders of models, tokenizers, encoders, runs and corpora, of at most 1 MB. Each is a name and files by path."""

import io
import json

import numpy as np
import torch
from hostile_media import wav
from hostile_pickles import PICKLES, header, tensor
from small import make_model

from spear_tts_pytorch import CharacterTokenizer


def model_folders(folder):
    """Changes of a saved model: of its configuration, and of both files."""
    model = make_model(tokenizer_encode=CharacterTokenizer("abc"), num_text_token_ids=None)
    model.save_pretrained(folder / "whole")
    text = (folder / "whole" / "config.json").read_text()
    good = (folder / "whole" / "model.safetensors").read_bytes()
    junk = header({f"a{i}": tensor(0, offsets=(0, 0)) for i in range(13_000)})
    layers = [f"source_transformer.layers.{i}.{part}" for i in range(1500) for part in "abcdefgh"]
    deep = header({name: tensor(0, offsets=(0, 0)) for name in layers})

    def config(**changes):
        value = json.loads(text)
        value["arguments"] |= {name: change for name, change in changes.items() if name in value["arguments"]}
        return json.dumps(value | {name: change for name, change in changes.items() if name not in value["arguments"]})

    def huggingface(model, **fields):
        inner = {"version": "1.0", "model": model, "added_tokens": [], **fields}
        return config(text_tokenizer={"type": "huggingface", "tokenizer": json.dumps(inner)})

    words = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
    deepest = words
    for _ in range(40):
        deepest = {"type": "Sequence", "normalizers": [deepest]}
    configs = {
        "wide": config(dim=65_536),
        "wider": config(dim=2**31 - 2, ff_mult=1e9),
        "deep": config(source_depth=10**6),
        "ids": config(num_semantic_token_ids=2**31 - 2),
        "symbols": config(text_tokenizer={"type": "characters", "symbols": [chr(65_536 + i) for i in range(200_000)]}),
        "language": config(text_tokenizer={"type": "phonemes", "language": "../../../../etc", "symbols": ["a"]}),
        "brackets": "[" * 10**6,
        "objects": '{"a":' * 10**5,
        "digits": '{"arguments": ' + "9" * 10**6 + "}",
        "keys": json.dumps({str(i): i for i in range(90_000)}),
        "vocabulary": huggingface({"type": "WordLevel", "vocab": {"a": 4294967290}, "unk_token": "a"}),
        "vocabulary of pieces": huggingface({"type": "Unigram", "unk_id": 2**40, "vocab": [["a", 0.0]]}),
        "merges": huggingface({"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"] * 1000}),
        "padding": huggingface(
            words,
            padding={
                "strategy": {"Fixed": 2**40},
                "direction": "Right",
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "a",
            },
        ),
        "added": huggingface(words, added_tokens=[{"id": 2**31, "content": "b", "special": True}]),
        "characters": huggingface(words, normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        "expression": huggingface(
            words, pre_tokenizer={"type": "Split", "pattern": {"Regex": "(" * 500}, "behavior": "Isolated"}
        ),
        "nested": huggingface(words, normalizer=deepest),
        "no model": huggingface({}),
    }
    for name, value in configs.items():
        yield name, {"config.json": value.encode(), "model.safetensors": good}
    yield "junk", {"config.json": config(dim=65_536).encode(), "model.safetensors": junk}
    yield "many layers", {"config.json": config(source_depth=1500).encode(), "model.safetensors": deep}
    yield "junk and layers", {"config.json": config(source_depth=3000, dim=8).encode(), "model.safetensors": junk}


def tokenizer_folders():
    settings = dict(sample_hz=8000, hop=160, num_mels=40, f_min=50.0, f_max=4000.0, num_mfcc=13, features="mfcc")
    mel = {"type": "mel_kmeans", "format_version": 1, "normalize": "clip", "unique_consecutive": False, "speakers": []}
    good = header({}, b"")
    for name, changes in {
        "fast": {"sample_hz": 10**400},
        "faster": {"sample_hz": 2**31 - 1, "num_mels": 2**31 - 1},
        "bands": {"num_mels": 10**9, "features": "logmel"},
        "hop": {"hop": -1},
        "field": {"more": 1},
    }.items():
        text = json.dumps({**mel, "settings": {**settings, **changes}})
        yield name, {"tokenizer.json": text.encode(), "tokenizer.safetensors": good}
    inside = b'{"type": "unique_consecutive", "format_version": 1}'
    yield "inside", {"/".join(["frames"] * i + ["tokenizer.json"]): inside for i in range(60)}
    yield "kind", {"tokenizer.json": b'{"type": ["mel_kmeans"]}'}
    yield "deep", {"tokenizer.json": b'{"type":' + b"[" * 10**6}


def hubert_folders():
    encoder = dict(
        model_type="hubert", hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    convolutions = dict(conv_dim=[8], conv_kernel=[10], conv_stride=[5], num_conv_pos_embeddings=4)
    tensors = header({f"a{i}": tensor(0, offsets=(0, 0)) for i in range(13_000)})
    for name, changes in {
        "wide": {"hidden_size": 2**20},
        "deep": {"num_hidden_layers": 10**6},
        "layers": {"num_hidden_layers": 13_000},
        "convolutions": {"conv_dim": [2**20] * 3, "conv_kernel": [2**20] * 3, "conv_stride": [1] * 3},
        "many convolutions": {"conv_dim": [1] * 13_000, "conv_kernel": [1] * 13_000, "conv_stride": [1] * 13_000},
        "steps": {"conv_stride": [0]},
        "code": {"auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}, "model_type": "evil"},
        "attention": {"attn_implementation": "someone/kernel"},
        "quantized": {"quantization_config": {"quant_method": "awq"}},
        "kind": {"model_type": "bert"},
        "types": {"architectures": 5, "dtype": "no such", "id2label": [1]},
    }.items():
        text = json.dumps({**encoder, **convolutions, **changes})
        yield name, {"config.json": text.encode(), "model.safetensors": tensors}
    text = json.dumps({**encoder, **convolutions}).encode()
    yield (
        "index",
        {
            "config.json": text,
            "model.safetensors.index.json": b'{"weight_map": {"a": "../../../../../../dev/zero"}}',
        },
    )
    yield "deep index", {"config.json": text, "model.safetensors.index.json": b"[" * 10**6}
    yield "adapter", {"config.json": text, "adapter_config.json": b'{"base_model_name_or_path": "a/b"}'}
    options = {"encoder_embed_dim": 2**20, "encoder_layers": 12}
    layers = "[" + ",".join(["(1,1,1)"] * 120) + "] * 100"
    for name, given in {
        "wide": options,
        "deep": {"encoder_layers": 10**9},
        "convolutions": {"conv_feature_layers": layers},
        "brackets": {"conv_feature_layers": "[" * 900 + "]" * 90},
    }.items():
        file = io.BytesIO()
        torch.save({"cfg": {"model": given}, "model": {f"a{i}": torch.zeros(1) for i in range(100)}}, file)
        yield f"fairseq {name}", file.getvalue()


def run_folders(pickles):
    for name in pickles:
        yield f"state {name}", {"trainer.pt": PICKLES[name]}
    yield "metrics deep", {"metrics.jsonl": b"[" * 10**6 + b"\n"}
    yield "metrics objects", {"metrics.jsonl": b'{"step":' * 10**5 + b"\n"}
    yield "metrics lines", {"metrics.jsonl": b"{}\n" * 300_000}


def corpora():
    a = {"wavs/a.wav": wav(data=np.arange(4000, dtype=np.int16).tobytes())}
    yield "columns", {**a, "metadata.csv": b"a|" + b"|" * 500_000 + b"\n" + b"a|b\n" * 100_000}
    yield "fields", {**a, "metadata.jsonl": b"".join(b'{"k%d": 1}\n' % i for i in range(70_000))}
    yield "named fields", {**a, "metadata.jsonl": b"".join(b'{"audio":"a","k%d":1}\n' % i for i in range(40_000))}
    yield "brackets", {**a, "metadata.jsonl": b'{"audio":"a","text":' + b"[" * 900_000}
    yield "quotes", {**a, "metadata.csv": b'"a","' + b'""' * 400_000}
    yield "nothing", {**a, "metadata.csv": b"\0" * 10**6}
    yield "lines", {**a, "metadata.csv": b"\n" * 10**6}
    yield "one line", {**a, "metadata.csv": b"a|" + b"b " * 490_000}
    yield "tabs", {**a, "train.tsv": b"\t" * 10**6}
