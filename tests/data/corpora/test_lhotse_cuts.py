"""Manifests of lhotse: clips, texts and speakers of cuts; sources that run commands are refused."""

import json

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

from spear_tts_pytorch.data.audio import load_audio, save_audio
from spear_tts_pytorch.data.corpora.cutting import part_of
from spear_tts_pytorch.data.corpora.lhotse_cuts import read_lhotse

HZ = 8000


@pytest.fixture
def manifest(tmp_path):
    save_audio(tmp_path / "long.wav", np.sin(np.arange(10 * HZ, dtype=np.float32)), HZ)
    recording = Recording.from_file(tmp_path / "long.wav")
    supervisions = [
        SupervisionSegment("s1", recording.id, 0.5, 2.0, text="one two", speaker="ann"),
        SupervisionSegment("s2", recording.id, 4.0, 3.0, text="three", speaker="bob"),
    ]
    cuts = [
        MonoCut("whole", 0.0, 10.0, 0, recording=recording),
        MonoCut("part", 1.0, 2.5, 0, recording=recording, supervisions=[supervisions[0].with_offset(-0.5)]),
        MonoCut("several", 0.0, 10.0, 0, recording=recording, supervisions=supervisions),
    ]
    CutSet.from_cuts(cuts).to_file(tmp_path / "cuts.jsonl.gz")
    return tmp_path / "cuts.jsonl.gz"


def test_cuts_are_clips(manifest, tmp_path):
    whole, part, *several = read_lhotse(manifest)
    wav = load_audio(tmp_path / "long.wav")[0]
    assert (whole.id, whole.text, whole.num_samples, whole.path) == ("whole", None, 10 * HZ, tmp_path / "long.wav")
    assert (part.text, part.speaker, part.sample_hz, part.path) == ("one two", "ann", HZ, None)
    assert np.array_equal(part.audio(), wav[HZ : round(3.5 * HZ)])
    assert [(one.text, one.seconds) for one in several] == [("one two", 2.0), ("three", 3.0)]


@pytest.mark.parametrize("change", ["channel", "rate", "volume", "silence"])
def test_a_part_of_a_cut_that_is_not_its_file_is_a_part_of_the_cut(tmp_path, change):
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "a.wav", 0.1 * rng.standard_normal((2 * HZ, 2 if change == "channel" else 1)), HZ)
    recording = Recording.from_file(tmp_path / "a.wav")
    whole = MonoCut("a", 0.0, 2.0, 0, recording=recording)
    changes = {
        "channel": lambda: whole,
        "rate": lambda: whole.resample(HZ // 2),
        "volume": lambda: whole.perturb_volume(2.0),
        "silence": lambda: whole.pad(3.0),
    }
    CutSet.from_cuts([changes[change]()]).to_file(tmp_path / "cuts.jsonl")
    one = read_lhotse(tmp_path / "cuts.jsonl")[0]
    start, end = one.sample_hz // 2, one.sample_hz
    assert one.path is None
    assert np.array_equal(part_of(one, (0.5, 1.0)).audio(), one.audio()[start:end])


def test_sources_that_run_a_command_are_refused(manifest, tmp_path):
    cuts = [cut.to_dict() for cut in CutSet.from_file(manifest)]
    marker = tmp_path / "ran"
    cuts[0]["recording"]["sources"] = [{"type": "command", "channels": [0], "source": f"touch {marker}"}]
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(json.dumps(cut) + "\n" for cut in cuts))
    with pytest.raises(ValueError, match="'command', which is not read"):
        read_lhotse(path)
    assert not marker.exists()


@pytest.mark.parametrize("text", ["", "rubbish\n", "[1, 2]\n", '{"type": "MonoCut", "id": 3}\n'])
def test_damaged_manifests_name_the_file(tmp_path, text):
    path = tmp_path / "cuts.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"cuts\.jsonl"):
        read_lhotse(path)
