"""JSON of ours, changed at random: it is read as before, or as what it says now, or refused by one error with its path."""

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import make_clips, make_ids, make_model

from spear_tts_pytorch import CharacterTokenizer, MelKmeans, TextToSemantic
from spear_tts_pytorch.data.pairs import GeneratedAudioTextDataset, write_pairs
from spear_tts_pytorch.data.tokenized import tokenize_corpus
from spear_tts_pytorch.tokenizers import ByteTokenizer, load_semantic_tokenizer
from spear_tts_pytorch.tokenizers.consecutive import UniqueConsecutive
from spear_tts_pytorch.training.run import RunFolder

CLIP = make_clips([4000])[0]
IDS = make_ids("speech", 20, [5])
HOSTILE = st.sampled_from(
    [
        None,
        True,
        "",
        "x",
        "\ud800",
        "a" * 1000,
        -1,
        0,
        2**31,
        -(2**63),
        10**400,
        -1e308,
        1e308,
        [],
        [1],
        {},
        {"a": None},
    ]
)


def mel_kmeans():
    generator = torch.Generator().manual_seed(0)
    clips = [0.1 * torch.randn(4000, generator=generator).numpy() for _ in range(4)]
    return MelKmeans.fit(clips, 8000, 5, progress=False)


def hubert(folder):
    transformers = pytest.importorskip("transformers")
    from spear_tts_pytorch.tokenizers.hubert import HubertWithKmeans

    torch.manual_seed(0)
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8,))
    rest = dict(conv_kernel=(10,), conv_stride=(5,), num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2)
    transformers.HubertModel(transformers.HubertConfig(**sizes, **rest)).save_pretrained(folder / "given")
    np.save(folder / "given" / "k.npy", np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32))
    return HubertWithKmeans(folder / "given", folder / "given" / "k.npy", output_layer=1)


def huggingface():
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    from spear_tts_pytorch.tokenizers.huggingface import HuggingFaceTokenizer

    inner = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")]))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return HuggingFaceTokenizer(transformers.PreTrainedTokenizerFast(tokenizer_object=inner))


class Kind:
    """Files of a kind in a folder: `name` is the JSON; `load` opens them; `result` is a number of everything that counts."""

    def __init__(self, name, make, load, result, says=lambda loaded: None):
        self.name, self.make, self.load, self.result, self.says = name, make, load, result, says


def model_kind(make_texts):
    def make(folder):
        make_model(tokenizer_encode=make_texts(), num_text_token_ids=None).save_pretrained(folder)

    def result(model):
        return model(IDS, IDS, source_type="speech", target_type="speech").tolist(), model.tokenizer_encode.to_dict()

    def says(model):
        return {
            "arguments": model.arguments,
            "text_tokenizer": model.tokenizer_encode and model.tokenizer_encode.to_dict(),
        }

    return Kind("config.json", make, TextToSemantic.from_pretrained, result, says)


def tokenizer_kind(make, name="tokenizer.json"):
    def says(tokenizer):
        return tokenizer.to_dict()

    return Kind(
        name, lambda folder: make(folder).save(folder), load_semantic_tokenizer, lambda one: one(CLIP).tolist(), says
    )


def make_pairs(folder):
    write_pairs(folder, [([1, 2], [3]), ([4], [1, 2])], num_semantic_token_ids=5, num_text_token_ids=5)


def make_ids_folder(folder):
    mel_kmeans().save(folder.parent / "tokenizer")
    tokenize_corpus([], mel_kmeans(), folder, progress=False)


def make_metrics(folder):
    run = RunFolder(folder)
    run.claim({})
    for step in range(3):
        run.append({"step": step, "loss": 0.5})


KINDS = {
    "model": model_kind(lambda: CharacterTokenizer("abc")),
    "model of bytes": model_kind(ByteTokenizer),
    "model with a tokenizer of transformers": model_kind(huggingface),
    "mel k-means": tokenizer_kind(lambda folder: mel_kmeans()),
    "without repeats": tokenizer_kind(lambda folder: UniqueConsecutive(mel_kmeans())),
    "hubert": tokenizer_kind(hubert),
    "encoder": tokenizer_kind(hubert, "encoder/config.json"),
    "pairs": Kind(
        "dataset.json",
        make_pairs,
        GeneratedAudioTextDataset,
        lambda pairs: str([pairs[0], pairs[1]]),
        lambda pairs: pairs.metadata,
    ),
    "description of ids": Kind(
        "tokenizer_of_ids.json",
        make_ids_folder,
        lambda folder: tokenize_corpus([], mel_kmeans(), folder, progress=False),
        lambda report: report.clips,
    ),
    "metrics": Kind("metrics.jsonl", make_metrics, lambda folder: RunFolder(folder).rewind(9), lambda records: None),
}


def places(value, path=()):
    """The paths of all values inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield (*path, name)
        yield from places(inner, (*path, name))


def changed(text, data):
    """Bytes of JSON with one change: of a field, of the text, or of the bytes."""
    how = data.draw(
        st.sampled_from(["value", "value", "value", "delete", "add", "twice", "deep", "NaN", "bytes", "cut"])
    )
    raw = text.encode()
    if how == "cut":
        return raw[: data.draw(st.integers(0, len(raw) - 1))]
    if how == "bytes":
        place = data.draw(st.integers(0, len(raw) - 1))
        return data.draw(
            st.sampled_from(
                [
                    b"\xef\xbb\xbf" + raw,
                    text.encode("utf-16"),
                    raw[:place] + b"\xff" + raw[place + 1 :],
                    b"",
                    b"\0" + raw,
                ]
            )
        )
    value = json.loads(text)
    *path, name = data.draw(st.sampled_from(list(places(value))))
    inner = value
    for step in path:
        inner = inner[step]
    if how == "delete":
        del inner[name]
    elif how == "add" and isinstance(inner, dict):
        inner["no such field"] = data.draw(HOSTILE)
    else:
        inner[name] = data.draw(HOSTILE) if how in ("value", "add") else "HERE"
    made = json.dumps(value, indent=2)
    if how == "twice" and isinstance(inner, dict):
        return made.replace('"HERE"', f"1, {json.dumps(name)}: 1").encode()
    instead = {"deep": "[" * 100_000 + "]" * 100_000, "NaN": "NaN"}.get(how, "1e999")
    return made.replace('"HERE"', instead).encode()


def inside(part, whole):
    """Whether every field of `part` that `whole` has, too, is the same there."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(inside(value, whole[name]) for name, value in part.items() if name in whole)
    return part == whole


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_what_is_changed_is_refused_with_its_path_or_read_as_it_says(tmp_path, name):
    kind, folder = KINDS[name], tmp_path / "folder"
    kind.make(folder)
    path = folder / kind.name
    text = path.read_text()
    before = kind.result(kind.load(folder))
    whole = tmp_path / "whole"
    shutil.copytree(folder, whole)

    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def check(data):
        raw = changed(text, data) if kind.name != "metrics.jsonl" else b"\n".join(changed_line(text, data))
        path.write_bytes(raw)
        try:
            loaded = kind.load(folder)
        except (ValueError, FileNotFoundError) as error:
            assert str(folder) in str(error) and len(str(error)) < 2000, error
        else:
            assert kind.result(loaded) == before or inside(kind.says(loaded), json.loads(raw))

    check()
    path.write_text(text)
    assert kind.result(kind.load(folder)) == before


def changed_line(text, data):
    first, *rest = text.splitlines()
    return [changed(first, data), *(line.encode() for line in rest), b""]
