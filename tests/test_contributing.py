"""The map in CONTRIBUTING.md: all files of the package are on it, from the ground up."""

import re
from pathlib import Path

import house

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
