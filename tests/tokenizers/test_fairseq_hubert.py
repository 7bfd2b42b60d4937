"""Files of HuBERT and k-means are read without the libraries that wrote them. Refused files are in test_restricted.py."""

import subprocess
import sys

import joblib
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from spear_tts_pytorch.tokenizers.fairseq_hubert import read_centroids

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def files(fixtures):
    return fixtures / "hubert_tiny"


def test_centroids_of_every_format(tmp_path, files):
    wanted = read_centroids(files / "hubert_tiny_L2_km20.bin")
    np.save(tmp_path / "a.npy", wanted.numpy())
    np.savez(tmp_path / "a.npz", centers=wanted.numpy())
    save_file({"centers": wanted}, tmp_path / "a.safetensors")
    joblib.dump(wanted.numpy(), tmp_path / "a.bin", compress=3)
    torch.save(wanted, tmp_path / "a.pt")
    for name in ("a.npy", "a.npz", "a.safetensors", "a.bin", "a.pt"):
        assert torch.equal(read_centroids(tmp_path / name), wanted)
    np.save(tmp_path / "flat.npy", np.ones(3))
    np.save(tmp_path / "objects.npy", np.array([{}]))
    for name in ("flat.npy", "objects.npy"):
        with pytest.raises(ValueError, match=name):
            read_centroids(tmp_path / name)


@pytest.mark.slow
def test_nothing_of_fairseq_is_imported(files):
    code = (
        "import sys; sys.modules['fairseq'] = None\n"
        "from spear_tts_pytorch.tokenizers.hubert import HubertWithKmeans\n"
        f"HubertWithKmeans({str(files / 'hubert_tiny.pt')!r}, {str(files / 'hubert_tiny_L2_km20.bin')!r}, output_layer=2)\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('fairseq', 'sklearn', 'joblib')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "['fairseq']"
