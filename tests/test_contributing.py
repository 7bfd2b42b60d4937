"""CONTRIBUTING.md: the map has all files of the package, from the ground up; the two walks are what happens."""

import re
import sys
from pathlib import Path

import house
import pytest
import small
import torch

from spear_tts_pytorch import CharacterTokenizer, MelKmeans, SpeechSpeechPretrainer

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "spear_tts_pytorch"


def mapped_files():
    """Files of the package in the order of the map."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    files = []
    for line in block.splitlines()[1:]:
        if line.startswith("  "):
            names = line.split("  # ")[0].split()
            folder = names.pop(0) if names[0].endswith("/") else ""
            files += [folder + name for name in names]
    return files


def test_the_map_has_each_file_once():
    there = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    expected = {path for path in there if not path.endswith("__init__.py")} - {"_moved.py"}
    mapped = mapped_files()
    assert len(mapped) == len(set(mapped))
    assert {"not on the map": expected - set(mapped), "not there": set(mapped) - expected} == {
        "not on the map": set(),
        "not there": set(),
    }


def test_files_import_from_above_on_the_map():
    place = {file.removesuffix(".py").replace("/", "."): number for number, file in enumerate(mapped_files())}
    arrows = [(name, other) for name, others in house.imports(PACKAGE).items() for other in others]
    assert [arrow for arrow in arrows if set(arrow) <= set(place) and place[arrow[0]] < place[arrow[1]]] == []


def test_the_shared_helpers_are_named():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    helpers = {path.name for path in (ROOT / "tests").glob("*.py")}
    helpers = {name for name in helpers if not name.startswith(("test_", "__init__", "conftest"))}
    assert {name for name in helpers if f"`{name}`" not in text and f"tests/{name}" not in text} == set()


@pytest.fixture(scope="module")
def model():
    pytest.importorskip("sklearn", reason="MelKmeans.fit needs scikit-learn")
    wav2vec = MelKmeans.fit(small.make_clips([8_000] * 4), 8_000, num_clusters=8, progress=False)
    tokenizers = dict(wav2vec=wav2vec, tokenizer_encode=CharacterTokenizer("abc"))
    return small.make_model(**tokenizers, num_text_token_ids=None, num_semantic_token_ids=None)


def walk(number):
    """(file, function) of each station of a walk, in order; a file occurs once."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    walks = text.split("## Two walks")[1].split("\n## ")[0].split("\nA sentence, ")
    stations = re.findall(r"^\d+\. `(\S+)` `(\S+)`:", walks[number], re.MULTILINE)
    assert len({file for file, _ in stations}) == len(stations) > 0
    return stations


def stations_in_order(function, stations):
    """The stations of a walk in the order in which calling the function reaches them first."""
    wanted = {(str(PACKAGE / file), name.split(".")[-1]): (file, name) for file, name in stations}
    reached = []

    def note(frame, event, _):
        station = wanted.get((frame.f_code.co_filename, frame.f_code.co_name)) if event == "call" else None
        if station and station not in reached:
            reached.append(station)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(before)
    return reached


def test_the_walk_of_a_batch(model):
    clips = [torch.from_numpy(clip) for clip in small.make_clips([8_000] * 4)]
    options = dict(num_train_steps=1, num_warmup_steps=0, batch_size=2, results_folder=None, progress=False)
    trainer = SpeechSpeechPretrainer(model, dataset=clips, **options)
    assert len(walk(0)) <= 12 and stations_in_order(trainer.train, walk(0)) == walk(0)


def test_the_walk_of_a_sentence(model):
    model.eval()
    assert len(walk(1)) <= 12
    assert stations_in_order(lambda: model.generate(["abc"], max_length=3), walk(1)) == walk(1)
