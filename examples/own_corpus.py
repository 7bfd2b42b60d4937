"""The whole recipe on a folder of your own, in LJSpeech's layout: metadata.csv (id|text) and wavs/.

    python examples/own_corpus.py FOLDER --labelled 60

The models train on `--labelled` of the texts only; the other texts serve to measure. Sizes and steps are those of the demo,
which takes minutes on two CPU cores. With hours of speech raise them all.
"""

import argparse
from dataclasses import replace

from spear_tts_pytorch.data.corpora import ljspeech_corpus
from spear_tts_pytorch.recipe import RecipeConfig, run_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="folder of the corpus")
    parser.add_argument("--labelled", type=int, default=60, help="texts to train on (default %(default)s)")
    parser.add_argument(
        "--steps", type=float, default=1.0, help="times the demo's training steps (default %(default)s)"
    )
    parser.add_argument("--output", default="my-model", help="folder for the model (default %(default)s)")
    args = parser.parse_args()

    demo = RecipeConfig()
    config = replace(
        demo,
        pretrain_steps=round(demo.pretrain_steps * args.steps),
        forward_steps=round(demo.forward_steps * args.steps),
        evaluator_steps=round(demo.evaluator_steps * args.steps),
    )
    result = run_recipe(ljspeech_corpus(args.folder, labelled=args.labelled), config, columns="d")
    print(f"character error rate {result.columns['d'].cer:.1f} %, of true speech {result.floor:.1f} %")
    result.model.save_pretrained(args.output)
    print(f'saved; now: spear-tts generate {args.output} "some text" --wav said.wav')


if __name__ == "__main__":
    main()
