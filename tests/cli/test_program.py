"""The shell: arguments reach the library, errors are one line and exit code 2, help is instant and has an example."""

import shlex
import subprocess
import sys

import pytest
from shell import one_line_error, spear_tts

from spear_tts_pytorch import __version__, cli
from spear_tts_pytorch.cli import program
from spear_tts_pytorch.utils.distributed import FirstProcessError

STAGES = ["units", "resynthesis", "pretrain", "backtranslate", "label", "train", "evaluate"]
TOOLS = ["demo", "generate", "tokenize", "pairs", "version"]
COMMANDS = [[], ["pairs", "merge"], *([name] for name in ["new", "run", *STAGES, "table", "say", *TOOLS])]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_on_one_line(command, capsys):
    assert cli.main([*command, "--help"]) == 0
    name = command[0] if command else "demo"
    (example,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  spear-tts ")]
    assert callable(cli.parser().parse_args(shlex.split(example)[1:]).command)
    assert example.startswith(f"  spear-tts {name}")


def test_the_list_of_commands_fits_a_screen_and_tells_the_recipe_in_its_order(capsys):
    assert cli.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    names = [line.split()[0] for line in lines if line.startswith("    ") and line[4] != " "]
    assert names == ["new", "run", *STAGES, "table", "say", *TOOLS]


def test_help_loads_no_torch():
    code = (
        "import sys\nfrom spear_tts_pytorch.cli import main\n"
        f"for command in {COMMANDS}:\n    assert main([*command, '--help']) == 0\n"
        "print('heavy:', sorted({'torch', 'numpy', 'pyarrow', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_version_names_what_a_bug_report_needs(capsys):
    assert cli.main(["version"]) == 0
    assert capsys.readouterr().out.startswith(f"spear-tts-pytorch {__version__}, torch ")


def test_module_runs_as_a_program():
    done = spear_tts("version")
    assert (done.returncode, done.stderr) == (0, "")
    assert __version__ in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["COMMAND", "spear-tts --help"]),
        (["sing"], ["sing"]),
        (["demo", "--labelled", "0"], ["--labelled", "'0'", ">= 1", "spear-tts demo --help"]),
        (["demo", "--labelled", "many"], ["'many'"]),
        (["demo", "--columns", "ax"], ["--columns", "'ax'"]),
        (["demo", "--columns", "aa"], ["'aa'"]),
        (["demo", "--seed", "one"], ["--seed", "'one'"]),
        (["demo", "--nonsense"], ["--nonsense"]),
        (["generate", "model"], ["TEXT"]),
        (["generate", "model", " "], ["text is empty"]),
        (["generate", "model", "a", "--temperature", "-1"], ["--temperature", "'-1'"]),
        (["generate", "model", "a", "--temperature", "nan"], ["'nan'"]),
        (["generate", "model", "a", "--wav", "out.mp3"], ["--wav", "out.mp3", ".wav"]),
        (["generate", "model", "a", "--output", "nowhere/ids.json"], ["nowhere", "make it first"]),
    ],
)
def test_wrong_arguments_are_one_line(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    one_line_error(capsys, *words)
    assert not list(tmp_path.iterdir())


def test_traceback_on_request_only():
    silent = spear_tts("generate", "model", " ")
    loud = spear_tts("generate", "model", " ", SPEAR_TTS_DEBUG="1")
    assert silent.returncode == 2 and "Traceback" not in silent.stderr
    assert loud.returncode != 0 and "Traceback" in loud.stderr and "text is empty" in loud.stderr


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("first\n  second"), 2, "error: first second\n"),
        (FileExistsError("out is there"), 2, "error: out is there\n"),
        (ImportError("pip install x"), 2, "error: pip install x\n"),
        (OSError(28, "No space left on device"), 2, "error: [Errno 28] No space left on device\n"),
        (BrokenPipeError(32, "Broken pipe"), 2, "error: [Errno 32] Broken pipe\n"),  # of a worker, not of the output
        (
            FirstProcessError("the first process failed: ValueError: x"),
            2,
            "error: the first process failed: ValueError: x\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (SystemExit(143), 143, ""),
    ],
)
def test_errors_become_exit_codes(error, code, line, capsys, monkeypatch):
    def fail(args):
        raise error

    monkeypatch.setattr(program, "_version", fail)
    assert cli.main(["version"]) == code
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("kind", [AttributeError, RuntimeError])
def test_a_bug_is_not_dressed_up_as_a_user_error(kind, monkeypatch):
    def fail(args):
        raise kind("a bug")

    monkeypatch.setattr(program, "_version", fail)
    with pytest.raises(kind):
        cli.main(["version"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["tokenize", "photos", "photos"],
            ["OUT photos", "other files (a.jpg, b.jpg, c.jpg and others)", "empty folder"],
        ),
        (["tokenize", "photos", "file"], ["OUT file", "is a file", "give a new"]),
        (["tokenize", "photos", "file/below"], ["OUT file/below", "is a file", "give a new"]),
        (["label", "model", "photos", "photos"], ["OUT photos", "a.jpg", "empty folder"]),
        (["label", "model", "photos", "file"], ["OUT file", "is a file", "give a new"]),
        (["label", "model", "photos", "out", "--report", "file"], ["--report file", "is a file"]),
        (["new", "photos", "sounds"], ["voice", "photos holds other files", "empty folder"]),
        (["new", "file", "sounds"], ["voice", "is a file", "give a new"]),
        (["say", "voice", "one", "--wav", "a.txt"], ["--wav a.txt", "give a.wav, or a folder"]),
        (["say", "voice", "one", "--wav", "file"], ["--wav file", "is a file"]),
        (["say", "voice", "one", "--wav", "file/below"], ["--wav file/below", "is a file"]),
        (["say", "voice", "one", "--wav", "folder.wav"], ["--wav folder.wav is a folder", "name of a file"]),
        (["generate", "model", "one", "--wav", "folder.wav"], ["--wav folder.wav is a folder", "name of a file"]),
        (["generate", "model", "one", "--output", "folder.json"], ["--output folder.json is a folder"]),
        (["pairs", "dedupe", "photos", "--out", "file/below"], ["--out file/below", "is a file"]),
        (["demo", "--output", "file/below"], ["file is a file", "--output"]),
    ],
)
def test_an_output_over_other_files_is_refused_by_name_before_any_work(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "sounds", "folder.wav", "folder.json"):
        (tmp_path / folder).mkdir()
    for path in ("file", *(f"photos/{letter}.jpg" for letter in "abcd")):
        (tmp_path / path).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(arguments) == 2
    one_line_error(capsys, *words)
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "file").read_text() == "mine"


def test_a_reader_that_has_enough_is_no_error():
    """As `spear-tts version | true`."""
    code = "import sys; from spear_tts_pytorch.cli import main; sys.stdin.read(); sys.exit(main(['version']))"
    pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    process = subprocess.Popen([sys.executable, "-c", code], **pipes)
    process.stdout.close()
    process.stdin.close()
    assert process.stderr.read() == b"" and process.wait(60) == 141
    process.stderr.close()
