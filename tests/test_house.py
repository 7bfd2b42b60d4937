"""The house rules hold for the package, and each check finds what it should in a package that breaks its rule."""

from pathlib import Path

import house
import pytest

import spear_tts_pytorch

PACKAGE = Path(spear_tts_pytorch.__file__).parent
ROOT = PACKAGE.parent


def test_no_circle_of_imports():
    assert house.circles(PACKAGE) == []


def test_imports_go_down_the_map():
    assert house.wrong_arrows(PACKAGE) == []


def test_few_files_at_the_top():
    assert len(house.top_files(PACKAGE)) <= house.MOST_FILES_ON_TOP


def test_no_mixins():
    assert house.mixins(PACKAGE) == []


def test_no_long_function():
    assert house.long_functions(PACKAGE) == []


def test_no_function_of_many_parameters_but_documented_public_ones():
    assert house.wide_functions(PACKAGE) == []


@pytest.mark.parametrize("folder", ["spear_tts_pytorch", "tests", "examples", "benchmarks"])
def test_no_long_file(folder):
    assert house.long_files(ROOT / folder) == []


@pytest.mark.parametrize("folder", ["spear_tts_pytorch", "tests", "examples", "benchmarks"])
def test_every_file_says_what_it_is(folder):
    assert house.files_without_docstring(ROOT / folder) == []


def test_modules_say_what_they_do_and_not_what_they_do_not_know():
    words = " ".join(("knows", "nothing", "of"))
    texts = [
        *(ROOT / "docs").rglob("*.md"),
        *ROOT.glob("*.md"),
        *PACKAGE.rglob("*.py"),
        *(ROOT / "tests").rglob("*.py"),
    ]
    texts += [*(ROOT / "examples").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.*")]
    assert [str(path) for path in texts if words in path.read_text(encoding="utf-8").lower()] == []


# ---- each check can fail ----


@pytest.fixture
def package(tmp_path):
    """Writes files of a made-up package `house_of_cards`; each has a docstring."""

    def write(**files):
        root = tmp_path / "house_of_cards"
        for name, code in {"__init__": "", **files}.items():
            path = root.joinpath(*name.split("__in__")).with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f'"""Made up."""\n{code}\n', encoding="utf-8")
        return root

    return write


def test_a_sound_package_passes(package):
    root = package(
        __init__="from house_of_cards import _moved\nfrom importlib import import_module\nimport_module(name)",
        _moved="",
        nn__in____init__="from .attend import a\nfrom house_of_cards.nn import linear",
        nn__in__attend="import torch\nfrom . import linear\nfrom ..tokens import pad",
        nn__in__linear="import house_of_cards.tokens",
        tokens="",
        cli__in__main="from house_of_cards.nn import a",
    )
    assert house.circles(root) == house.wrong_arrows(root) == []
    assert house.imports(root)["nn.attend"] == {"nn.linear", "tokens"}
    assert house.imports(root)["nn.__init__"] == {"nn.attend", "nn.linear"}
    assert house.imports(root)["nn.linear"] == {"tokens"}
    assert house.imports(root)["cli.main"] == {"nn.__init__"}


@pytest.mark.parametrize(
    "back",
    [
        "import house_of_cards.nn.attend",
        "from house_of_cards.nn.attend import a",
        "from house_of_cards.nn import attend",
        "from . import attend as other",
        "from .attend import a",
        "def f():\n    from house_of_cards.nn import attend",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .attend import A",
        "from importlib import import_module\nimport_module('house_of_cards.nn.attend')",
        "import importlib\nimportlib.import_module('house_of_cards.nn.attend')",
        "class A:\n    def f(self):\n        return __import__('house_of_cards.nn.attend')",
    ],
)
def test_circles_are_found(package, back):
    root = package(nn__in__attend="from house_of_cards.nn.linear import a", nn__in__linear=back)
    assert house.circles(root) == ["nn.attend -> nn.linear -> nn.attend"]
    assert house.wrong_arrows(root) == []


def test_longer_circles_are_found_through_a_package(package):
    root = package(
        nn__in____init__="from .a import x", nn__in__a="from .b import x", nn__in__b="from house_of_cards.nn import x"
    )
    assert house.circles(root) == ["nn.__init__ -> nn.a -> nn.b -> nn.__init__"]
    assert house.wrong_arrows(root) == ["nn.b -> nn.__init__: its own package"]


@pytest.mark.parametrize(
    "files, found",
    [
        ({"nn__in__a": "from house_of_cards.model import b", "model__in__b": ""}, "nn.a -> model.b"),
        ({"tokens": "def f():\n    from .utils.files import x", "utils__in__files": ""}, "tokens -> utils.files"),
        ({"objectives": "from .data import x", "data__in____init__": ""}, "objectives -> data.__init__"),
        ({"nn__in__a": "from house_of_cards import x"}, "nn.a -> __init__"),
        ({"nn__in__a": "from house_of_cards import _moved", "_moved": ""}, "nn.a -> _moved"),
        ({"nn__in__a": "from house_of_cards.nn import x", "nn__in____init__": ""}, "nn.a -> nn.__init__"),
        ({"attic__in__a": ""}, "attic.a"),
    ],
)
def test_wrong_arrows_are_found(package, files, found):
    (line,) = house.wrong_arrows(package(**files))
    assert line.startswith(f"{found}: ")


def test_long_functions_and_files_are_found(package):
    lines = "\n        x = 1"
    code = f"class A:\n    @property\n    def f(self):{lines * 60}\n    def g(self):{lines * 59}"
    assert house.long_functions(package(nn__in__a=code)) == ["nn.a:A.f: 61 lines"]
    root = package(nn__in__a="x = 1\n" * 398, nn__in__b="x = 1\n" * 399)
    assert house.long_files(root) == ["nn/b.py: 401 lines"]


def test_wide_functions_are_found(package):
    many = [f"argument_{i}" for i in range(13)]
    listed, documented = ", ".join(many), f'"""Takes {", ".join(many)}."""'
    code = f"""
def public({listed}): {documented}
def lacking({listed}): "Takes {listed.removesuffix("12")}"
def _private({listed}): {documented}
def narrow({", ".join(many[1:])}): pass
def starred(*args, {", ".join(many[1:])}, **kwargs): pass
class A:
    {documented}
    def __init__(self, {listed}): pass
    def method(self, *, {listed}): pass
    @overload
    def other(self, *, {listed}): ...
    def other(self, **kwargs): {documented}
    def narrow(self, {", ".join(many[1:])}): pass
class _B:
    {documented}
    def __init__(self, {listed}): {documented}
"""
    found = [line.split(" ")[0] for line in house.wide_functions(package(nn__in__a=code))]
    assert sorted(found) == [
        "nn.a:A.method:",
        "nn.a:_B.__init__:",
        "nn.a:_private:",
        "nn.a:lacking:",
        "nn.a:starred:",
    ]


def test_mixins_files_on_top_and_missing_docstrings_are_found(package):
    root = package(nn__in__a="def f():\n    class LoopMixin: pass", **{f"top{i}": "" for i in range(9)})
    assert house.mixins(root) == ["nn.a.LoopMixin"]
    assert len(house.top_files(root)) == 9
    (root / "nn" / "b.py").write_text("# not a docstring\n")
    assert house.files_without_docstring(root) == ["nn/b.py"]
