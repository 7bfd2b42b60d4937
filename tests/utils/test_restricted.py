"""Pickled files: what is data is read, what is code is refused and never runs."""

import builtins
import io
import os
import pickle
import tarfile
import traceback
import zipfile
from collections import OrderedDict

import joblib
import numpy as np
import pytest
import small
import torch

from spear_tts_pytorch.data.pairs import GeneratedAudioTextDataset
from spear_tts_pytorch.tokenizers.fairseq_hubert import read_centroids, read_fairseq_hubert
from spear_tts_pytorch.utils.restricted import load_joblib, load_tensors


class Runs:
    """Creates a file when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def payloads(trace):
    command = f"touch {trace}"
    inner = pickle.dumps(Runs(os.system, command))
    objects = np.array([Runs(os.system, command)], dtype=object)
    return {
        "system": (Runs(os.system, command), "system"),
        "eval": (Runs(builtins.eval, f"open({str(trace)!r}, 'w')"), "eval"),
        "getattr": (Runs(builtins.getattr, "x", "upper"), "getattr"),
        "a pickle in the pickle": (Runs(pickle.loads, inner), "loads"),
        "an array of objects": (objects, "objects|_reconstruct"),
        "an importer": (Runs(__import__, "os"), "__import__"),
    }


READERS = {
    "checkpoint": ("x.pt", torch.save, lambda path: read_fairseq_hubert(path)),
    "weights": ("x.pt", torch.save, lambda path: model().load(path)),
    "k-means": ("x.bin", joblib.dump, lambda path: read_centroids(path)),
    "compressed k-means": ("x.bin", lambda a, b: joblib.dump(a, b, compress=3), lambda path: read_centroids(path)),
    "pairs": ("0.pt", torch.save, lambda path: GeneratedAudioTextDataset(path.parent)[0]),
}


def model():
    return small.make_model(num_text_token_ids=9, num_semantic_token_ids=9)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("payload", payloads("x"))
@pytest.mark.parametrize("nested", [False, True])
def test_code_is_refused_by_name(tmp_path, reader, payload, nested):
    if reader == "checkpoint":
        pytest.importorskip("transformers")
    name, write, read = READERS[reader]
    trace, path = tmp_path / "trace", tmp_path / "files" / name
    path.parent.mkdir()
    harmful, word = payloads(trace)[payload]
    write({"model": {"weight": harmful}} if nested else harmful, path)
    with pytest.raises(ValueError) as refusal:
        read(path)
    message = str(refusal.value)
    assert str(path) in message and any(part in message for part in word.split("|")), message
    assert not trace.exists(), "it ran"


def test_the_payloads_would_run(tmp_path):
    """Otherwise refusing them would prove nothing."""
    for index, (harmful, _) in enumerate(payloads(tmp_path / "trace").values()):
        pickle.loads(pickle.dumps(harmful))
        if index in (0, 1, 3, 4):
            assert (tmp_path / "trace").exists()
            (tmp_path / "trace").unlink()


def test_notes_of_types_and_states_cannot_be_forged(tmp_path):
    """An object type that says it is none, and a state for what is no stand-in."""

    class Forged:
        def __init__(self, function, arguments, state):
            self.parts = function, arguments, state

        def __reduce__(self):
            return self.parts

    state = (3, "<", None, None, None, -1, -1, 0)
    forged = {
        "type": Forged(np.dtype, ("O8", False, True), state),
        "scalar": Runs(np._core.multiarray.scalar, np.dtype("O"), b"AAAAAAAA"),
        "state": Forged(OrderedDict, (), {"a": 1}),
    }
    for name, value in forged.items():
        path = tmp_path / f"{name}.bin"
        path.write_bytes(pickle.dumps({"x": value}, protocol=4))
        if name == "type":  # inert as long as nothing is read with it
            load_joblib(path)
        else:
            with pytest.raises(ValueError, match=f"{name}.bin"):
                load_joblib(path)


def test_a_damaged_file_is_no_reason_to_run_it(tmp_path):
    (tmp_path / "zeros.pt").write_bytes(b"\0" * 100)
    with pytest.raises(ValueError, match="zeros.pt is damaged .*Unsupported operand 0") as caught:
        load_tensors(tmp_path / "zeros.pt")
    shown = "".join(traceback.format_exception(caught.value))
    assert "weights_only" not in str(caught.value) and "set to `False`" not in shown


def test_archives_that_hold_programs_are_refused(tmp_path):
    program = torch.jit.script(torch.nn.Linear(2, 2))
    torch.jit.save(program, tmp_path / "program.pt")
    with pytest.raises(ValueError, match="program.pt is damaged or no file of weights .*TorchScript"):
        load_tensors(tmp_path / "program.pt")
    with tarfile.open(tmp_path / "old.pt", "w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO())
    with pytest.raises(ValueError, match="old.pt is damaged or no file of weights"):
        load_tensors(tmp_path / "old.pt")
    with zipfile.ZipFile(tmp_path / "inner.zip", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Runs(os.system, f"touch {tmp_path / 'trace'}")))
        archive.writestr("archive/version", "3\n")
    with pytest.raises(ValueError, match="inner.zip"):
        load_tensors(tmp_path / "inner.zip")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("damage", ["empty", "truncated", "text"])
def test_damaged_files_say_so(tmp_path, damage):
    for name, write, read in (("a.pt", torch.save, load_tensors), ("a.bin", joblib.dump, load_joblib)):
        path = tmp_path / name
        write({"a": torch.ones(1000)} if name == "a.pt" else {"a": np.ones(1000)}, path)
        data = {"empty": b"", "truncated": path.read_bytes()[:-900], "text": b"not a pickle\n" * 30}[damage]
        path.write_bytes(data)
        with pytest.raises(ValueError, match=name):
            read(path)
        with pytest.raises(FileNotFoundError, match="no file"):
            read(tmp_path / f"missing-{name}")


@pytest.mark.parametrize("compress", [0, 3, "gzip", "bz2", "xz"])
def test_what_joblib_wrote_is_read(tmp_path, compress):
    value = {"c": np.arange(6.0).reshape(2, 3), "f": np.asfortranarray(np.arange(6).reshape(2, 3)), "n": 3, "s": "x"}
    joblib.dump(value, tmp_path / "a.bin", compress=compress)
    found = load_joblib(tmp_path / "a.bin")
    assert found["n"] == 3 and found["s"] == "x"
    for name in ("c", "f"):
        assert np.array_equal(found[name], value[name]) and found[name].dtype == value[name].dtype


def test_what_torch_wrote_is_read(tmp_path):
    value = {"a": torch.randn(3), "b": {"c": torch.ones(2, dtype=torch.bfloat16)}, "n": 1.5, "l": [1, "x"]}
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        torch.save(value, tmp_path / "a.pt", **options)
        found = load_tensors(tmp_path / "a.pt")
        assert torch.equal(found["a"], value["a"]) and torch.equal(found["b"]["c"], value["b"]["c"])
        assert found["n"] == 1.5 and found["l"] == [1, "x"]


def test_numbers_of_numpy_are_read(tmp_path):
    value = {"lr": np.float64(0.25), "n": np.int32(-3), "b": np.bool_(True), "h": [np.float16(0.5)], "w": torch.ones(2)}
    value["big"] = np.frombuffer(np.array([1.5], ">f4").tobytes(), ">f4")[0]
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        torch.save(value, tmp_path / "a.pt", **options)
        found = load_tensors(tmp_path / "a.pt")
        for name in ("lr", "n", "b", "big"):
            assert found[name] == value[name] and found[name].dtype == value[name].dtype
        assert found["h"] == [0.5] and torch.equal(found["w"], value["w"])
    joblib.dump(value["lr"], tmp_path / "a.bin")
    assert load_joblib(tmp_path / "a.bin") == 0.25


def test_numbers_of_numpy_cannot_be_forged(tmp_path):
    scalar, number = np._core.multiarray.scalar, np.dtype("f8")
    forged = [
        Runs(scalar, np.dtype("O"), b"AAAAAAAA"),  # an address
        Runs(scalar, number, torch.ones(1)),
        Runs(scalar, "f8", b"AAAAAAAA"),
        Runs(scalar, np.dtype([("a", "O")]), b"AAAAAAAA"),
        Runs(scalar, number, b"AA"),
    ]
    for index, value in enumerate(forged):
        path = tmp_path / f"{index}.pt"
        torch.save({"x": value}, path)
        with pytest.raises(ValueError, match=rf"{index}\.pt (holds|is damaged)"):
            load_tensors(path)


@pytest.mark.parametrize(
    ("options", "state"),
    [
        ({"conv_feature_layers": "[(512,10,5"}, {}),
        ({"conv_feature_layers": "[(512,,5)]"}, {}),
        ({"conv_feature_layers": "[512]"}, {}),
        ({"conv_feature_layers": 7}, {}),
        ({"conv_feature_layers": "[(8,10)]"}, {}),
        ({"conv_feature_layers": "[]"}, {}),
        ({"encoder_embed_dim": "wide"}, {}),
        ({"encoder_attention_heads": 0}, {}),
        ({"conv_pos_groups": 7}, {}),
        ({"activation_fn": "no such"}, {}),
        ({"encoder_embed_dim": 16}, {"layer_norm.weight": "text"}),
        ({"encoder_embed_dim": 16}, {5: torch.ones(1)}),
        ({"encoder_embed_dim": 16}, {"layer_norm.weight": torch.ones(3)}),
    ],
)
def test_strange_options_of_a_fairseq_checkpoint_are_said(tmp_path, options, state):
    pytest.importorskip("transformers")
    small = dict(encoder_embed_dim=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_embed_dim=16)
    small |= dict(conv_feature_layers="[(8,10,5)]", conv_pos=4, conv_pos_groups=2)
    torch.save({"cfg": {"model": small | options, "task": {}}, "model": state}, tmp_path / "strange.pt")
    with pytest.raises(ValueError, match="strange.pt is not a HuBERT that this version knows"):
        read_fairseq_hubert(tmp_path / "strange.pt")


@pytest.mark.parametrize("cfg", [None, 3, {}, {"model": None}, {"model": 5}, []])
def test_checkpoints_that_do_not_say_how_they_are_built(tmp_path, cfg):
    pytest.importorskip("transformers")
    torch.save({"cfg": cfg, "model": {}}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="a.pt does not say how its model is built"):
        read_fairseq_hubert(tmp_path / "a.pt")


def test_numbers_of_numpy_in_the_options_of_a_checkpoint(tmp_path):
    pytest.importorskip("transformers")
    small = dict(encoder_embed_dim=np.int64(16), encoder_layers=1, encoder_attention_heads=2, encoder_ffn_embed_dim=16)
    small |= dict(conv_feature_layers="[(8,10,5)]", conv_pos=4, conv_pos_groups=2, dropout=np.float64(0.1))
    path = tmp_path / "a.pt"
    torch.save({"cfg": {"model": small}, "model": {}}, path)
    with pytest.raises(ValueError, match="a.pt is not a HuBERT that this version knows .*0 tensors"):
        read_fairseq_hubert(path)


def test_a_tensor_that_takes_more_memory_than_its_file_is_refused(tmp_path):
    torch.save({"x": Runs(torch.Tensor, 3_000_000)}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="weights.pt.*larger than its numbers"):
        load_tensors(tmp_path / "weights.pt")
