"""Pseudo-labelling real speech with beam 4: utterances per second, and time and disk space for 60,000 hours.

    pip install --target old --no-deps spear-tts-pytorch==0.4.8 rotary-embedding-torch==0.6.5 audiolm-pytorch==2.4.0
    SPEAR_TTS_CORPORA=corpora python benchmarks/label.py --predecessor old

A model of width 128, 3 + 3 layers is trained on asterisk_en in the folder SPEAR_TTS_CORPORA (speech to text, characters,
MelKmeans ids without repeats), and then transcribes --utterances of its clips, each side with its own generator and into
its own folder. Both have the same weights. 0.4.8 takes one clip at a time: in larger batches it cuts clips to the shortest.
Contestants stay loaded, each in a process of its own, and take turns of a part of the clips. Speeds are medians over the
turns, ratios medians of the turns' ratios. Transcripts are compared; where they differ, `model.score` tells the likelier one.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from workers import Contestant, audiolm_modules, serve, take_turns

SIZE = dict(source_depth=3, target_depth=3, heads=2, dim_head=64)
WIDTH, CLUSTERS, BEAM = 128, 100, 4
OURS, RELEASE = "ours", "release 0.4.8"
TYPES = dict(source_type="speech", target_type="text")
HOURS = 60_000


def prepare(corpus: str, work: Path, steps: int, count: int) -> float:
    """Trains the model, writes it and the clips to label into `work`; returns the mean length of these in seconds."""
    import torch

    from spear_tts_pytorch import CharacterTokenizer, SemanticToTextTrainer, TextToSemantic
    from spear_tts_pytorch.data.corpora.readers import read_corpus
    from spear_tts_pytorch.data.tokenized import fit_tokenizer
    from spear_tts_pytorch.tokenizers.consecutive import UniqueConsecutive

    clips = [one for one in read_corpus(corpus) if one.text and one.seconds <= 15]
    tokenizer = UniqueConsecutive(fit_tokenizer(clips, CLUSTERS, progress=False))
    characters = CharacterTokenizer.fit([one.text for one in clips])
    speech = [tokenizer(torch.from_numpy(one.audio()))[0] for one in clips]
    torch.manual_seed(0)
    model = TextToSemantic(
        WIDTH,
        num_semantic_token_ids=CLUSTERS,
        num_text_token_ids=characters.vocab_size,
        tokenizer_encode=characters,
        **SIZE,
    )
    SemanticToTextTrainer(
        model,
        dataset=[(ids, characters([one.text])[0]) for ids, one in zip(speech, clips, strict=True)],
        num_train_steps=steps,
        num_warmup_steps=min(50, steps),
        lr=2e-3,
        batch_tokens=4000,
        freeze_encoder=False,
        results_folder=None,
        save_results_every=None,
    ).train()
    model.save_pretrained(work / "model")
    chosen = torch.randperm(len(clips), generator=torch.Generator().manual_seed(0))[:count].tolist()
    torch.save([speech[i] for i in chosen], work / "speech.pt")
    return sum(clips[i].seconds for i in chosen) / len(chosen)


def ids_of(path: Path, part: tuple[int, int]) -> Any:
    import torch

    rows = torch.load(path, weights_only=True)[part[0] : part[1]]

    class Items(torch.utils.data.Dataset):  # 0.4.8 takes no list
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, index: int) -> Any:
            return rows[index]

    return Items()


def ours(work: Path, max_length: int, batch_size: int) -> Callable[[Any], dict[str, Any]]:
    from spear_tts_pytorch import GeneratedAudioTextDataset, SemanticToTextDatasetGenerator, TextToSemantic

    model = TextToSemantic.from_pretrained(work / "model")

    def turn(part: tuple[int, int]) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            generator = SemanticToTextDatasetGenerator(
                model, dataset=ids_of(work / "speech.pt", part), folder=folder, batch_size=batch_size, progress=False
            )
            start = time.perf_counter()
            generator(max_length, beam_size=BEAM)
            seconds = time.perf_counter() - start
            size = sum(path.stat().st_size for path in Path(folder).glob("*.parquet"))
            texts = [text.tolist() for _, text in GeneratedAudioTextDataset(folder)]
        return {"seconds": seconds, "texts": texts, "bytes": size}

    return turn


def predecessor(folder: str, work: Path, max_length: int) -> Callable[[Any], dict[str, Any]]:
    """Release 0.4.8, with the weights in `old.pt` once they are there; until then a turn writes `names.pt`."""
    import torch

    sys.path.insert(0, folder)
    audiolm_modules(folder)
    from spear_tts_pytorch import SemanticToTextDatasetGenerator, TextToSemantic

    size = json.loads((work / "model" / "config.json").read_text())["arguments"]["num_text_token_ids"]
    model = TextToSemantic(WIDTH, num_semantic_token_ids=CLUSTERS, num_text_token_ids=size, **SIZE).eval()

    def turn(part: tuple[int, int] | None) -> dict[str, Any]:
        if part is None:  # each tensor is filled with the number of its entry in the state dict
            state = model.state_dict()
            numbered = {name: torch.full_like(value, number) for number, (name, value) in enumerate(state.items())}
            torch.save({"model": numbered, "names": list(state)}, work / "names.pt")
            return {}
        model.load_state_dict(torch.load(work / "old.pt", weights_only=True), strict=False)
        with tempfile.TemporaryDirectory() as made:
            items = ids_of(work / "speech.pt", part)
            generator = SemanticToTextDatasetGenerator(model, dataset=items, folder=made, batch_size=1)
            start = time.perf_counter()
            generator(max_length, beam_size=BEAM)
            seconds = time.perf_counter() - start
            rows = [torch.load(Path(made) / f"{i}.pt", weights_only=True).tolist() for i in range(len(items))]
        texts = [row[row.index(-1) + 1 :] for row in rows]
        texts = [text[: text.index(size)] if size in text else text for text in texts]
        return {"seconds": seconds, "texts": texts}

    return turn


def write_old_weights(work: Path) -> None:
    """Writes our weights under the names of release 0.4.8."""
    import torch

    from spear_tts_pytorch import TextToSemantic

    model = TextToSemantic.from_pretrained(work / "model")
    trained = {name: value.clone() for name, value in model.state_dict().items()}
    numbered = torch.load(work / "names.pt", weights_only=True)
    names = numbered.pop("names")
    torch.save(numbered, work / "numbered.pt")
    model.load(work / "numbered.pt")
    places = {name: names[int(value.flatten()[0])] for name, value in model.state_dict().items()}
    torch.save({places[name]: value for name, value in trained.items()}, work / "old.pt")


def compared(work: Path, mine: list[list[int]], theirs: list[list[int]]) -> dict[str, int]:
    """Counts the transcripts that are the same and, among the others, those where ours or theirs is likelier."""
    import torch

    from spear_tts_pytorch import TextToSemantic

    model = TextToSemantic.from_pretrained(work / "model")
    speech = torch.load(work / "speech.pt", weights_only=True)
    found = {"identical": 0, "ours likelier": 0, "theirs likelier": 0}
    for ids, own, other in zip(speech, mine, theirs, strict=False):
        if own == other:
            found["identical"] += 1
            continue
        totals = [float(model.score([ids], [torch.tensor(text)], **TYPES).log_probs[0]) for text in (own, other)]
        found["ours likelier" if totals[0] >= totals[1] else "theirs likelier"] += 1
    return found


def figures(answers: dict[str, list[dict[str, Any]]], parts: list[tuple[int, int]], seconds: float) -> dict[str, Any]:
    """Medians of the turns, and days and bytes for HOURS of speech."""
    speed = {
        name: [(end - begin) / one["seconds"] for (begin, end), one in zip(parts, turns, strict=False)]
        for name, turns in answers.items()
    }
    utterances = HOURS * 3600 / seconds
    size = sum(one["bytes"] for one in answers[OURS]) / parts[-1][1]
    found = {
        "utterances_per_second": {name: round(median(rates), 2) for name, rates in speed.items()},
        "seconds_per_clip": round(seconds, 2),
        "bytes_per_pair": round(size),
        f"{HOURS} h": {
            "utterances": round(utterances),
            "gigabytes": round(utterances * size / 1e9, 1),
            "days on N machines": {n: round(utterances / median(speed[OURS]) / 86400 / n, 1) for n in (1, 10, 100)},
        },
    }
    if RELEASE in speed:
        found["ratio"] = round(median(a / b for a, b in zip(speed[OURS], speed[RELEASE], strict=True)), 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predecessor", metavar="FOLDER", help="folder that holds release 0.4.8 and audiolm-pytorch")
    parser.add_argument("--corpus", metavar="FOLDER", help="another corpus than asterisk_en")
    parser.add_argument("--utterances", type=int, default=200, help="default %(default)s")
    parser.add_argument("--turns", type=int, default=5, help="default %(default)s")
    parser.add_argument("--steps", type=int, default=400, help="of training (default %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="ours (default %(default)s)")
    parser.add_argument("--max-length", type=int, default=256, help="ids of text (default %(default)s)")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="keeps the trained model there for the next run")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker == OURS:
        return serve(lambda: ours(args.work, args.max_length, args.batch_size))
    if args.worker:
        return serve(lambda: predecessor(args.predecessor, args.work, args.max_length))
    if not args.corpus and "SPEAR_TTS_CORPORA" not in os.environ:
        parser.error("give --corpus, or set SPEAR_TTS_CORPORA to the folder that holds asterisk_en")
    corpus = args.corpus or str(Path(os.environ["SPEAR_TTS_CORPORA"]) / "asterisk_en")
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        known = work / "seconds.json"
        if not known.is_file():
            known.write_text(json.dumps(prepare(corpus, work, args.steps, args.utterances)))
        print(json.dumps(run(args, work, json.loads(known.read_text())), indent=2))


def run(args: argparse.Namespace, work: Path, seconds: float) -> dict[str, Any]:
    passed = ["--work", str(work), "--batch-size", str(args.batch_size), "--max-length", str(args.max_length)]
    contestants = [Contestant(__file__, OURS, passed)]
    if args.predecessor:
        contestants.append(Contestant(__file__, RELEASE, [*passed, "--predecessor", args.predecessor]))
        contestants[1].turn(None)
        write_old_weights(work)
    size = -(-args.utterances // args.turns)
    parts = [(begin, min(begin + size, args.utterances)) for begin in range(0, args.utterances, size)]
    contestants[0].turn((0, 2))  # warm-up
    answers: dict[str, list[dict[str, Any]]] = {one.name: [] for one in contestants}
    for part in parts:
        found, failures = take_turns({one: (part, 1) for one in contestants})
        if failures:
            raise SystemExit(f"failed: {failures}")
        for name, turns in found.items():
            answers[name] += turns
            print(f"clips {part[0]} to {part[1]}: {name} {turns[0]['seconds']:.1f} s", file=sys.stderr)
    for one in contestants:
        one.close()
    result = figures(answers, parts, seconds)
    if args.predecessor:
        texts = {name: [text for turn in turns for text in turn["texts"]] for name, turns in answers.items()}
        result["transcripts"] = compared(work, texts[OURS], texts[RELEASE])
    return result


if __name__ == "__main__":
    main()
