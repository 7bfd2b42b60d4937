"""Speed and memory of tokenizers on real speech.

    pip install "spear-tts-pytorch[hubert]"
    SPEAR_TTS_CORPORA=corpora python benchmarks/tokenization.py

`corpora` holds `asterisk_en/` in LJSpeech's layout (25 minutes). The figures are medians of `--rounds`: the seconds of
`MelKmeans.fit` with 64 clusters; the speed of `MelKmeans` in times real time; the speed of HuBERT base (random weights)
against the forward pass of `transformers` on the same batches, up to the same layer, in turn. Last come the seconds and the
most memory of a process that tokenizes 60 minutes in one call; torch, the model and the 25 minutes are included.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from workers import forget_peak_memory, peak_memory

from spear_tts_pytorch import MelKmeans
from spear_tts_pytorch.data.audio import resample
from spear_tts_pytorch.data.corpora import read_ljspeech

LAYER, CLUSTERS, BATCH = 9, 64, 8


def seconds_of(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def random_hubert(folder: str):
    """HuBERT base with random weights, up to one layer: as our tokenizer, and as the model of transformers."""
    from transformers import HubertConfig, HubertModel

    from spear_tts_pytorch.tokenizers.hubert import HubertWithKmeans

    torch.manual_seed(0)
    HubertModel(HubertConfig()).save_pretrained(f"{folder}/hubert")
    np.save(f"{folder}/centroids.npy", np.random.default_rng(0).normal(size=(500, 768)).astype(np.float32))
    ours = HubertWithKmeans(f"{folder}/hubert", f"{folder}/centroids.npy", output_layer=LAYER)
    theirs = HubertModel.from_pretrained(f"{folder}/hubert").eval()
    theirs.encoder.layers = theirs.encoder.layers[:LAYER]
    return ours, theirs


def hubert_against_transformers(clips: list[np.ndarray], sample_hz: int, rounds: int) -> None:
    clips = sorted((torch.from_numpy(resample(clip, sample_hz, 16_000)) for clip in clips), key=len)
    batches = [clips[i : i + BATCH] for i in range(len(clips) // 2, len(clips) // 2 + 4 * BATCH, BATCH)]
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = random_hubert(folder)
    times: dict[str, list[float]] = {"ours": [], "transformers": []}
    audio = sum(len(clip) for batch in batches for clip in batch) / 16_000
    for index in range(rounds + 1):
        found = {"ours": 0.0, "transformers": 0.0}
        for batch in batches:
            wav = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
            lengths = torch.tensor([len(clip) for clip in batch])
            mask = (torch.arange(wav.shape[1]) < lengths[:, None]).long()
            with torch.no_grad():
                found["transformers"] += seconds_of(lambda wav=wav, mask=mask: theirs(wav, attention_mask=mask))
            found["ours"] += seconds_of(lambda wav=wav, lengths=lengths: ours(wav, lengths))
        if index:
            for name in times:
                times[name].append(found[name])
    ratio = median(a / b for a, b in zip(times["ours"], times["transformers"], strict=True))
    speeds = ", ".join(f"{name} {audio / median(values):.1f} times real time" for name, values in times.items())
    print(f"HuBERT base, layer {LAYER}, batches of {BATCH}: {speeds}; time ours / transformers {ratio:.2f}")


def one_hour(kind: str, clips: list[np.ndarray], sample_hz: int) -> None:
    """Prints the seconds and megabytes of 60 minutes in one call."""
    if kind == "hubert":
        with tempfile.TemporaryDirectory() as folder:
            tokenizer, _ = random_hubert(folder)
        clips, sample_hz = [resample(clip, sample_hz, 16_000) for clip in clips], 16_000
    else:
        tokenizer = MelKmeans.fit(clips, sample_hz, CLUSTERS, progress=False)
    hour = torch.from_numpy(np.resize(np.concatenate(clips), 3600 * sample_hz))
    forget_peak_memory()
    seconds = seconds_of(lambda: tokenizer(hour))
    print(f"{kind}, 60 minutes in one call: {seconds:.1f} s, {peak_memory() / 1e6:.0f} MB in the whole process")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--one-hour", choices=["mel", "hubert"], help=argparse.SUPPRESS)
    parser.add_argument("--without-hubert", action="store_true", help="MelKmeans only")
    args = parser.parse_args()
    corpora = os.environ.get("SPEAR_TTS_CORPORA")
    if not corpora or not Path(corpora, "asterisk_en").is_dir():
        parser.error("set SPEAR_TTS_CORPORA to a folder that holds asterisk_en/")
    utterances = read_ljspeech(Path(corpora, "asterisk_en"))
    clips, sample_hz = [one.audio() for one in utterances], utterances[0].sample_hz
    if args.one_hour:
        return one_hour(args.one_hour, clips, sample_hz)
    audio = sum(len(clip) for clip in clips) / sample_hz
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {audio / 60:.1f} minutes of speech")
    fits = [seconds_of(lambda: MelKmeans.fit(clips, sample_hz, CLUSTERS, progress=False)) for _ in range(args.rounds)]
    print(f"MelKmeans.fit, {CLUSTERS} clusters: {median(fits):.1f} s")
    tokenizer = MelKmeans.fit(clips, sample_hz, CLUSTERS, progress=False)
    waves = [torch.from_numpy(clip) for clip in clips]
    runs = [seconds_of(lambda: [tokenizer(wav) for wav in waves]) for _ in range(args.rounds)]
    print(f"MelKmeans: {audio / median(runs):.0f} times real time")
    if not args.without_hubert:
        hubert_against_transformers(clips, sample_hz, args.rounds)
    for kind in ("mel",) if args.without_hubert else ("mel", "hubert"):
        subprocess.run([sys.executable, __file__, "--one-hour", kind], check=True)


if __name__ == "__main__":
    main()
