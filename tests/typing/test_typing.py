"""Type checkers accept what users write."""

import json
import os
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


def test_pyright_accepts_the_examples(tmp_path):
    scripts = list((ROOT / "examples").glob("*.py"))
    assert len(scripts) >= 2
    for script in scripts:
        (tmp_path / script.name).write_text(script.read_text(encoding="utf-8"), encoding="utf-8")
    assert pyright(tmp_path, "standard") == ""
