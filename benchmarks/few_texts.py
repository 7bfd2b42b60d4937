"""Makes a folder of recordings of which few have a text, as people have them, from a corpus in LJSpeech's layout.

    python benchmarks/few_texts.py CORPUS OUT --texts 400 --seed 0

OUT/wavs links to the audio, and OUT/metadata.csv has the texts of clips drawn by the seed. Then, for example:

    spear-tts new voice OUT --test 100
    spear-tts run voice
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from spear_tts_pytorch.data.corpora import read_ljspeech


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, metavar="CORPUS")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--texts", type=int, default=400, help="clips that keep their text")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    clips = read_ljspeech(args.corpus, strict=False)
    with_text = [one for one in clips if one.text]
    if args.texts > len(with_text):
        raise SystemExit(f"--texts {args.texts}: only {len(with_text)} clips of {args.corpus} have a text: lower it")
    kept = random.Random(args.seed).sample(with_text, args.texts)
    (args.out / "wavs").mkdir(parents=True)
    for one in clips:
        path = Path(str(one.path)).resolve()
        (args.out / "wavs" / path.name).symlink_to(path)
    rows = [f"{one.id}|{' '.join(str(one.text).split())}\n" for one in kept]
    (args.out / "metadata.csv").write_text("".join(sorted(rows)), encoding="utf-8")
    print(f"{args.out}: {len(clips)} clips, {len(kept)} with a text; now: spear-tts new voice {args.out} --test 100")


if __name__ == "__main__":
    main()
