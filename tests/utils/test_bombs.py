"""Small files that ask for much memory or time are refused: compressed zeros, tuples in tuples, arrays of any shape."""

import bz2
import io
import time
import zipfile

import numpy as np
import pytest

from spear_tts_pytorch.tokenizers.fairseq_hubert import read_centroids
from spear_tts_pytorch.utils.restricted import load_joblib, load_tensors

TUPLES = b"\x80\x04)q\0" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(40)) + b"}h\x28K\x01s."
LISTS = b"\x80\x04]q\0" + b"".join(b"]q%c(h%ch%ce" % (i + 1, i, i) for i in range(28)) + b"}b."


def refused(read, path, data):
    path.write_bytes(data)
    start = time.monotonic()
    with pytest.raises(ValueError, match=path.name):
        read(path)
    assert time.monotonic() - start < 5


def archive(name, data):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr(name, data)
    return file.getvalue()


def test_a_codebook_of_compressed_zeros(tmp_path):
    refused(read_centroids, tmp_path / "k.bin", bz2.compress(b"\0" * 2**24) * 40)


@pytest.mark.parametrize("data", [TUPLES, LISTS], ids=["tuples", "lists"])
def test_a_pickle_that_holds_itself_many_times(tmp_path, data):
    refused(load_joblib, tmp_path / "k.bin", data)
    refused(load_tensors, tmp_path / "k.pt", data)


def test_an_archive_that_is_larger_inside(tmp_path):
    refused(load_tensors, tmp_path / "k.pt", archive("a/data.pkl", b"\x80\x02N" + b"0N" * 2**20 + b"."))
    refused(read_centroids, tmp_path / "k.npz", archive("a.npy", b"\0" * 2**28))


@pytest.mark.parametrize("damage", ["cut off", "strings", "a shape that is too large", "a text beside"])
def test_arrays_that_are_damaged(tmp_path, damage):
    file = io.BytesIO()
    np.save(file, np.array([["a"]]) if damage == "strings" else np.zeros((9, 9), np.float32))
    data = file.getvalue()
    if damage == "a text beside":
        with zipfile.ZipFile(tmp_path / "k.npz", "w") as made:
            made.writestr("a.npy", data)
            made.writestr("readme.txt", "text")
        assert read_centroids(tmp_path / "k.npz").shape == (9, 9)
        return
    data = data[:150] if damage == "cut off" else data.replace(b"(9, 9), }   ", b"(99999, 9), }")
    refused(read_centroids, tmp_path / "k.npy", data)
    refused(read_centroids, tmp_path / "k.npz", archive("a.npy", data)[:-30])
