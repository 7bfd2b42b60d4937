"""Type checkers accept what users write: a script under strict rules, README.md and the examples under the usual ones."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPT = Path(__file__).with_name("use.py")
ENVIRONMENT = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1", "MYPYPATH": str(ROOT)}

pytestmark = pytest.mark.slow


def check(module, *arguments):
    """Runs a type checker; its output if it finds anything."""
    pytest.importorskip(module, reason=f"{module} is not installed")
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300, cwd=ROOT)
    return done.stdout + done.stderr if done.returncode else ""


def pyright(folder, mode):
    """The errors of pyright in a folder that holds nothing else."""
    options = {"include": ["."], "extraPaths": [str(ROOT)], "typeCheckingMode": mode, "pythonVersion": "3.10"}
    (folder / "pyrightconfig.json").write_text(json.dumps(options))
    return check("pyright", "--project", folder, "--pythonpath", sys.executable)


def mypy(script):
    return check("mypy", "--strict", "--config-file", ROOT / "pyproject.toml", script)


@pytest.mark.parametrize("wrong", ["", "ids: list[int] = make_model([]).generate(['one'])"])
def test_pyright_strict_accepts_the_script_and_refuses_a_wrong_type(tmp_path, wrong):
    (tmp_path / "use.py").write_text(f"{SCRIPT.read_text(encoding='utf-8')}\n{wrong}\n", encoding="utf-8")
    errors = pyright(tmp_path, "strict")
    assert ("1 error" in errors and '"Tensor"' in errors) if wrong else errors == ""


@pytest.mark.parametrize("wrong", ["", "ids: list[int] = make_model([]).generate(['one'])"])
def test_mypy_strict_accepts_the_script_and_refuses_a_wrong_type(tmp_path, wrong):
    (tmp_path / "use.py").write_text(f"{SCRIPT.read_text(encoding='utf-8')}\n{wrong}\n", encoding="utf-8")
    errors = mypy(tmp_path / "use.py")
    assert ("1 error" in errors and '"Tensor"' in errors) if wrong else errors == ""


def test_the_script_runs(tmp_path):
    runpy.run_path(str(SCRIPT))["main"](tmp_path)


def test_pyright_accepts_the_snippets_of_the_readme(tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    snippets = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    assert len(snippets) >= 3
    (tmp_path / "readme.py").write_text("\n".join(snippets), encoding="utf-8")
    assert pyright(tmp_path, "standard") == ""


def test_pyright_accepts_the_examples(tmp_path):
    scripts = list((ROOT / "examples").glob("*.py"))
    assert len(scripts) >= 2
    for script in scripts:
        (tmp_path / script.name).write_text(script.read_text(encoding="utf-8"), encoding="utf-8")
    assert pyright(tmp_path, "standard") == ""
