"""A voice from a folder of your own recordings, of which some have a text.

    python examples/own_corpus.py RECORDINGS my-voice

The same from the shell: `spear-tts new my-voice RECORDINGS && spear-tts run my-voice`. Interrupted or called again, it goes
on with what is not done.
"""

import argparse
from pathlib import Path

from spear_tts_pytorch import Voice


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", help="folder of recordings; a table such as metadata.csv (id|text) has the texts")
    parser.add_argument("voice", help="folder to make")
    parser.add_argument("--say", help="text to say in the end; the default is a text of the recordings")
    parser.add_argument("--quick", action="store_true", help="small and short, to see that the data go through")
    args = parser.parse_args()

    is_new = not (Path(args.voice) / "voice.toml").exists()
    voice = Voice.new(args.voice, args.recordings, quick=args.quick) if is_new else Voice(args.voice)
    voice.run()
    said = voice.say(args.say or voice.results.labelled.texts[0])
    print(said)
    if len(said.ids):
        said.save("said.wav")


if __name__ == "__main__":
    main()
