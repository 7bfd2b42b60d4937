"""The package as installed: names, lightness of import, type marker, metadata."""

import ast
import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import spear_tts_pytorch

PACKAGE = Path(spear_tts_pytorch.__file__).parent
ROOT = PACKAGE.parent

CONTRACT = [
    "TextToSemantic",
    "SpeechSpeechPretrainWrapper",
    "SemanticToTextWrapper",
    "TextToSemanticWrapper",
    "SemanticToTextDatasetGenerator",
    "SpeechSpeechPretrainer",
    "SemanticToTextTrainer",
    "TextToSemanticTrainer",
    "GeneratedAudioTextDataset",
    "MockDataset",
]


def loaded_by(statement: str) -> set[str]:
    """Modules that a fresh interpreter holds after the statement."""
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(run.stdout))


@pytest.mark.parametrize("name", CONTRACT)
def test_contract_names_are_classes_at_the_root(name):
    assert isinstance(getattr(spear_tts_pytorch, name), type)


def test_every_public_name_resolves_and_is_listed():
    for name in spear_tts_pytorch.__all__:
        assert getattr(spear_tts_pytorch, name) is not None
        assert name in dir(spear_tts_pytorch)
    assert set(CONTRACT) <= set(spear_tts_pytorch.__all__)


def test_names_for_type_checkers_are_those_of_run_time():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    static = {alias.asname: node.module for node in block.body for alias in node.names}
    assert static == {name: f"spear_tts_pytorch.{home}" for name, home in spear_tts_pytorch._MODULES.items()}
    assert sorted(spear_tts_pytorch.__all__) == sorted([*static, "__version__"])


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="NoSuchName"):
        _ = spear_tts_pytorch.NoSuchName


def test_importing_the_root_loads_no_torch():
    assert "torch" not in loaded_by("import spear_tts_pytorch, spear_tts_pytorch.cli")


@pytest.mark.slow
def test_importing_every_name_loads_no_optional_package():
    loaded = loaded_by("from spear_tts_pytorch import *")
    assert "torch" in loaded
    heavy = {
        "sklearn",
        "matplotlib",
        "pandas",
        "pyarrow.dataset",
        "transformers",
        "jiwer",
        "scipy",
        "espeakng_loader",
        "lhotse",
    }
    assert not heavy & loaded


def test_folders_with_modules_are_packages():
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]


def test_type_marker_lies_in_the_package():
    assert (PACKAGE / "py.typed").is_file()


def test_version_has_one_source_and_three_numbers():
    assert re.fullmatch(r"\d+\.\d+\.\d+", spear_tts_pytorch.__version__)
    assert f"## [{spear_tts_pytorch.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_setup_script_reads_the_version_without_importing_the_package():
    code = (
        "import sys, setuptools\n"
        "seen = {}\n"
        "setuptools.setup = lambda **kwargs: seen.update(kwargs)\n"
        "import runpy; runpy.run_path('setup.py')\n"
        "assert not {'torch', 'spear_tts_pytorch'} & set(sys.modules)\n"
        "print(seen['version'], seen['package_data'], sorted(seen['extras_require']))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    if "No module named 'setuptools'" in run.stderr:
        pytest.skip("setuptools is not installed in this environment")
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(spear_tts_pytorch.__version__)
    assert "py.typed" in run.stdout
    assert (
        "['all', 'clip', 'demo', 'hubert', 'lhotse', 'phonemes', 'plots', 'test', 'track', 'transcripts']" in run.stdout
    )


def test_installed_metadata():
    try:
        installed = metadata.distribution("spear-tts-pytorch")
    except metadata.PackageNotFoundError:
        pytest.skip("spear-tts-pytorch is run from its folder, not installed")
    assert installed.version == spear_tts_pytorch.__version__
    core = {re.split(r"[^\w.-]", line)[0].lower() for line in installed.requires if "extra ==" not in line}
    names = "torch einops beartype tqdm accelerate safetensors huggingface_hub numpy filelock soundfile soxr pyarrow"
    assert core == {*names.split(), "tomlkit", "jinja2", "typing_extensions"}
    (script,) = [entry for entry in installed.entry_points if entry.name == "spear-tts"]
    assert script.value == "spear_tts_pytorch.cli:main"
