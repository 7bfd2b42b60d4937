"""Type checkers accept what users write: a script under strict rules, README.md and the examples under the usual ones.

Each checker runs once, over a folder of copies. A copy of the script with a wrong type at its end shows that it looks.
"""

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
WRONG = "ids: list[int] = make_model([]).generate(['one'])"
ENVIRONMENT = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1", "MYPYPATH": str(ROOT)}
STRICT = ["use.py", "wrong.py"]
# mypy reads all of what it follows: without limits a minute of torch. Nothing that the script asserts needs more than
# tensors, modules and the decorators of torch; `assert_type` fails for the `Any` that a package left out would give.
MYPY = """[mypy]
strict = True
python_version = 3.10
[mypy-spear_tts_pytorch.*]
follow_imports = silent
[mypy-torch.*,numpy.*,transformers.*,tokenizers.*,safetensors.*,accelerate.*,pyarrow.*,beartype.*,einops.*,sklearn.*]
follow_imports = skip
follow_imports_for_stubs = True
[mypy-torch,torch._tensor,torch._C,torch._C.*,torch._VF,torch.types,torch.functional]
follow_imports = silent
[mypy-torch.nn,torch.nn.modules,torch.nn.modules.module,torch.nn.parameter]
follow_imports = silent
[mypy-torch.autograd,torch.autograd.grad_mode,torch.utils,torch.utils._contextlib]
follow_imports = silent
"""

pytestmark = pytest.mark.slow


def check(module, *arguments):
    """What a type checker prints."""
    pytest.importorskip(module, reason=f"{module} is not installed")
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300, cwd=ROOT)
    assert done.returncode == 1, f"the wrong type is found, so the checker ends with 1: {done.stdout}{done.stderr}"
    return done.stdout


def write_strict(folder):
    """The script, and a copy with a wrong type in its last line."""
    script = SCRIPT.read_text(encoding="utf-8")
    for name, text in zip(STRICT, (script, f"{script}\n{WRONG}\n"), strict=True):
        (folder / name).write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Errors of pyright by file: strict for the script, standard for README.md's snippets and the examples."""
    folder = tmp_path_factory.mktemp("pyright")
    write_strict(folder)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    snippets = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    assert len(snippets) >= 3
    (folder / "readme.py").write_text("\n".join(snippets), encoding="utf-8")
    for script in (ROOT / "examples").glob("*.py"):
        (folder / f"example_{script.name}").write_text(script.read_text(encoding="utf-8"), encoding="utf-8")
    options = {"include": ["."], "extraPaths": [str(ROOT)], "typeCheckingMode": "standard", "pythonVersion": "3.10"}
    (folder / "pyrightconfig.json").write_text(json.dumps({**options, "strict": STRICT}))
    said = json.loads(check("pyright", "--outputjson", "--project", folder, "--pythonpath", sys.executable))
    files = list(folder.glob("*.py"))
    assert said["summary"]["filesAnalyzed"] == len(files)
    errors = {file.name: [] for file in files}
    for one in said["generalDiagnostics"]:
        errors[Path(one["file"]).name].append(one["message"])
    return errors


def test_pyright_strict_accepts_the_script_and_refuses_a_wrong_type(found):
    assert found["use.py"] == []
    assert len(found["wrong.py"]) == 1 and '"Tensor"' in found["wrong.py"][0]


def test_pyright_accepts_the_snippets_of_the_readme_and_the_examples(found):
    usual = found.keys() - set(STRICT)
    assert len(usual) >= 3
    assert {file: found[file] for file in usual if found[file]} == {}


def test_mypy_strict_accepts_the_script_and_refuses_a_wrong_type(tmp_path):
    write_strict(tmp_path)
    (tmp_path / "mypy.ini").write_text(MYPY)
    scripts = [tmp_path / name for name in STRICT]
    said = check("mypy", "--cache-dir", os.devnull, "--config-file", tmp_path / "mypy.ini", *scripts)
    errors = [line for line in said.splitlines() if ": error: " in line]
    assert len(errors) == 1 and "wrong.py" in errors[0] and '"Tensor"' in errors[0], said


def test_the_script_runs(tmp_path):
    runpy.run_path(str(SCRIPT))["main"](tmp_path)
