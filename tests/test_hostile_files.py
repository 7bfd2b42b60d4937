"""Hostile files of at most 1 MB: reading one takes below 1 GB and 5 s, and ends with one error that has its path.

`write_all` writes them. A process of its own reads all of them (`read`), within limits on its memory and time.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hostile_folders import corpora, hubert_folders, model_folders, run_folders, tokenizer_folders
from hostile_media import one_row, parquet_file, recordings, shards
from hostile_pickles import PICKLES, codebooks, weights
from small import make_model

from spear_tts_pytorch import TextToSemantic
from spear_tts_pytorch.data.audio import load_audio, read_header
from spear_tts_pytorch.data.corpora.readers import read_corpus
from spear_tts_pytorch.data.pairs import GeneratedAudioTextDataset
from spear_tts_pytorch.data.tokenized import TokenizedSpeech
from spear_tts_pytorch.tokenizers import load_semantic_tokenizer
from spear_tts_pytorch.tokenizers.fairseq_hubert import read_centroids
from spear_tts_pytorch.training.run import RunFolder, load_state

MEMORY, SECONDS = 2**30, 5
REFUSALS = ("ValueError", "RefusedError", "FileNotFoundError", "OSError")
ACCEPTED = {  # unusual, but what they hold is small
    *(
        "audio: audio/many channels.wav",
        "audio: audio/silence.ogg",
        "audio: audio/tags.mp3",
        "audio: audio/tags first.mp3",
    ),
    *("audio: audio/frames.mp3", "corpus: corpus folders/one line", "corpus: corpus folders/tabs"),
    *(
        f"{reader}: {reader} folders/{name}"
        for reader in ("pairs", "ids")
        for name in ("magic", "long text", "row, understated")
    ),
}
SOME = ("tuples in tuples", "sets", "no end")  # of the pickles, for readers that share their code with another
READ = {
    "codebook": read_centroids,
    "weights": lambda path: make_model().load(path),
    "model": TextToSemantic.from_pretrained,
    "tokenizer": load_semantic_tokenizer,
    "state": load_state,
    "metrics": lambda folder: RunFolder(folder).rewind(1),
    "pairs": lambda folder: GeneratedAudioTextDataset(folder)[0],
    "ids": lambda folder: TokenizedSpeech(folder)[0],
    "audio": lambda path: (read_header(path), load_audio(path, 24_000)),
    "corpus": lambda folder: [one.audio() for one in read_corpus(folder)],
}


def hubert(path):
    from spear_tts_pytorch.tokenizers.hubert import HubertWithKmeans

    return HubertWithKmeans(path)


READ["hubert"] = hubert


def write_all(folder):
    """Writes every file; returns what is read: the reader and the path."""
    jobs: list[tuple[str, Path]] = []

    def files(reader, found):
        (folder / reader).mkdir(parents=True)
        for name, data in found:
            path = folder / reader / name.replace("/", "-")
            path.write_bytes(data)
            jobs.append((reader, path))

    def folders(reader, found, place="{}"):
        for name, given in found:
            where = folder / f"{reader} folders" / name
            for inner, data in (given if isinstance(given, dict) else {place: given}).items():
                (where / inner).parent.mkdir(parents=True, exist_ok=True)
                (where / inner).write_bytes(data)
            jobs.append((reader, where / place if isinstance(given, bytes) and reader == "hubert" else where))

    files("codebook", codebooks())
    files("weights", weights())
    files("audio", recordings())
    folders("model", model_folders(folder))
    folders("tokenizer", tokenizer_folders())
    folders("hubert", hubert_folders(), "a.pt")
    folders("pairs", shards(), "pairs-00000-000000.parquet")
    folders("pairs", ((f"row {name}", PICKLES[name]) for name in SOME), "0.pt")
    folders("ids", shards(), "speech-000000.parquet")
    folders("corpus", corpora())
    for name, given in run_folders(SOME):
        folders(name.split()[0], [(name, given)])
    return jobs + no_files(folder)


def no_files(folder):
    """Pipes, folders and links that lead into themselves, where files are expected."""
    jobs: list[tuple[str, Path]] = []
    places = {
        "codebook": ("k.bin", "k.npy", "k.safetensors"),
        "weights": ("a.pt", "a.safetensors"),
        "audio": ("a.wav",),
        "model": ("config.json", "model.safetensors"),
        "tokenizer": ("tokenizer.json",),
        "state": ("trainer.pt",),
        "pairs": ("pairs-00000-000000.parquet", "dataset.json", "0.pt"),
        "ids": ("speech-000000.parquet",),
        "hubert": ("config.json",),
        "corpus": ("wavs/a.wav", "metadata.csv", "train.txt"),
    }
    make = {"pipe": os.mkfifo, "folder": os.mkdir, "loop": lambda path: path.symlink_to(path.name)}
    for reader, names in places.items():
        for kind, made in make.items():
            for name in names:
                where = folder / "no files" / f"{reader} {kind} {name.replace('/', '-')}"
                (where / name).parent.mkdir(parents=True)
                made(where / name)
                if reader == "model" and name != "config.json":
                    (where / "config.json").write_bytes((folder / "whole" / "config.json").read_bytes())
                if name == "dataset.json":
                    (where / "pairs-00000-000000.parquet").write_bytes(parquet_file(one_row(3)))
                jobs.append((reader, where / name if reader in ("codebook", "weights", "audio") else where))
    return jobs


def read(jobs):
    """Reads files within the limits; prints what became of each in a line of JSON."""
    import warnings

    warnings.simplefilter("ignore")
    for reader, path in json.loads(jobs):
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # ends the process; others may use the processors, too
        signal.setitimer(signal.ITIMER_REAL, 5 * SECONDS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
        print(json.dumps([reader, path]), flush=True)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        kind, said = "", ""
        try:
            READ[reader](Path(path))
        except BaseException as error:
            kind, said = type(error).__name__, str(error)
        for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(timer, 0)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(json.dumps([kind, said[:3000], grown >> 10]), flush=True)


CODE = (
    "import sys; sys.path[:0] = [{root!r}, {tests!r}]; from test_hostile_files import read; read(open({jobs!r}).read())"
)


def read_all(jobs, folder):
    """What became of each file: the kind of its error, the message, and by how many MiB memory grew."""
    tests, found, jobs = Path(__file__).parent, {}, list(jobs)
    while jobs:
        (folder / "jobs.json").write_text(json.dumps([[reader, str(path)] for reader, path in jobs]))
        code = CODE.format(root=str(tests.parent), tests=str(tests), jobs=str(folder / "jobs.json"))
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
        for (reader, path), result in zip(
            lines[::2], [*lines[1::2], ["killed", str(done.returncode), 0]], strict=False
        ):
            found[reader, path] = result
        assert lines, done.returncode
        jobs = jobs[len(lines[::2]) :]
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits and pipes of Linux")
def test_each_is_refused_by_name_within_bounds(tmp_path):
    jobs = write_all(tmp_path)
    found = read_all(jobs, tmp_path)
    assert len(found) == len(jobs)
    wrong = []
    for (reader, path), (kind, said, grown) in found.items():
        name = f"{reader}: {Path(path).relative_to(tmp_path)}"
        if kind == "" and name in ACCEPTED:
            continue
        if kind not in REFUSALS or path not in said or grown > MEMORY >> 20:
            wrong.append(f"{name}: {kind} {said[:200]} ({grown} MiB)")
        if len(said) > 1000:
            wrong.append(f"{name}: a message of {len(said)} characters: {said[:100]}")
    assert not wrong, "\n".join(wrong)
