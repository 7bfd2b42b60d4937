"""`spear-tts new`, `run`, and a command for each stage: from folders of recordings to a voice."""

from __future__ import annotations

import argparse

from spear_tts_pytorch.cli.arguments import Commands, add_command, add_no_progress, numbers, positive, setting

STAGES = {
    "units": "1. turn speech into ids, by a tokenizer that is fitted on it",
    "resynthesis": "1b. learn to turn ids into sound, from audio alone",
    "pretrain": "2. learn speech, from audio alone",
    "backtranslate": "3. learn to read speech, from the clips with a text",
    "train": "5. learn to say text, from both",
    "evaluate": "6. measure how much of what the voice says is understood",
}


def add_new(commands: Commands) -> None:
    """Adds the command `new`."""
    new = add_command(
        commands,
        "new",
        _new,
        help="look at your recordings and write the settings of a voice",
        description="Look at folders of recordings, of which some have a text, and write VOICE/voice.toml: every setting, "
        "with a comment, to be edited. Sizes and steps are chosen by hours of audio, minutes of text, and CPU or GPU; how "
        "long these take here is timed and printed. Then `spear-tts run VOICE` makes the voice.",
        example="new my-voice spear-tts-demo/corpus --quick",
    )
    new.add_argument("voice", metavar="VOICE", help="folder to make")
    new.add_argument("corpus", nargs="+", metavar="CORPUS", help="folders of recordings, with or without texts")
    new.add_argument(
        "--audio", action="append", default=[], metavar="DIR", help="a further folder of recordings (repeatable)"
    )
    new.add_argument(
        "--text", action="append", default=[], metavar="FILE", help="table of texts for audio elsewhere (repeatable)"
    )
    new.add_argument(
        "--unpaired-text", action="append", default=[], metavar="FILE", help="sentences without audio, one a line"
    )
    new.add_argument("--labelled", type=positive, metavar="N", help="learn from N of the texts only, drawn at random")
    new.add_argument(
        "--test",
        metavar="N|FILE",
        help="clips kept for testing, or a file of their ids (default: a tenth, at most 100)",
    )
    new.add_argument(
        "--init",
        metavar="VOICE|MODEL",
        help="start from an earlier voice, a model folder, a file of weights or a Hub id; a voice gives its units, too",
    )
    new.add_argument(
        "--encoder",
        metavar="FOLDER|HUB_ID",
        help="find the units in this speech encoder (HuBERT, WavLM, wav2vec 2.0, w2v-BERT 2.0, Whisper): far fewer errors",
    )
    new.add_argument(
        "--recogniser",
        metavar="FOLDER|HUB_ID",
        help="judge by this Whisper, too, which reads speech that is made of the ids",
    )
    new.add_argument("--quick", action="store_true", help="small and short for all data: see that they go through")
    add_set(new)
    add_no_progress(new)


def add_run(commands: Commands) -> None:
    """Adds the command `run`."""
    run = add_command(
        commands,
        "run",
        _run,
        help="make the voice: all stages, 1 to 6, that are not done",
        description="Run the stages of a voice: units, pretrain, backtranslate, label, train, evaluate. What is done and "
        "unchanged is kept; work that was interrupted goes on. Under `accelerate launch` all processes share the work.",
        example="run spear-tts-demo",
    )
    _add_voice(run)


def add_stage(commands: Commands, stage: str) -> None:
    """Adds the command of a stage; `label` has a file of its own."""
    words = STAGES[stage]
    command = add_command(
        commands,
        stage,
        _stage,
        help=words,
        description=f"One stage of `spear-tts run`: {words.partition('. ')[2]}.",
        example=f"{stage} spear-tts-demo" + (" --set resynthesis.steps=20" if stage == "resynthesis" else ""),
    )
    command.set_defaults(stage=stage, split=None)
    _add_voice(command)
    if stage == "units":
        _add_report(command)
    if stage == "evaluate":
        command.add_argument(
            "--split",
            choices=("development", "test"),
            help="clips to measure on: 'development' to choose settings by, and then once 'test' (sets evaluate.split)",
        )


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--report", action="store_true", help="measure how good the ids are: units/report.md")
    for name in ("layers", "clusters"):
        words = f"compare these {name}, fitted on a sample, and name the best"
        parser.add_argument(f"--{name}", type=numbers, default=[], metavar="N,N", help=words)
    parser.add_argument(
        "--alignments", metavar="DIR", help="compare with phones: TextGrids of labelled clips, ID.TextGrid"
    )


def add_set(parser: argparse.ArgumentParser) -> None:
    """Adds `--set`."""
    parser.add_argument(
        "--set",
        dest="changes",
        action="append",
        type=setting,
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="write this setting into voice.toml first (repeatable)",
    )


def _add_voice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("voice", metavar="VOICE", help="folder that `spear-tts new` made")
    parser.add_argument("--again", action="store_true", help="run also what is done, from the beginning")
    add_set(parser)
    add_no_progress(parser)


def _new(args: argparse.Namespace) -> int:
    from spear_tts_pytorch.recipe.units import WITHOUT_ENCODER
    from spear_tts_pytorch.recipe.voice import Voice

    voice = Voice.new(
        args.voice,
        [*args.corpus, *args.audio],
        text=args.text,
        unpaired_text=args.unpaired_text,
        labelled=args.labelled,
        test=int(args.test) if (args.test or "").isdecimal() else args.test,
        init=args.init,
        encoder=args.encoder,
        recogniser=args.recogniser,
        quick=args.quick,
        changes=dict(args.changes),
        progress=args.progress or "lines",
    )
    if not (voice.settings.units.encoder or voice.settings.units.init):
        print(WITHOUT_ENCODER)
    print(f"written: {voice.folder / 'voice.toml'}; now: spear-tts run {args.voice}")
    return 0


def _run(args: argparse.Namespace) -> int:
    from spear_tts_pytorch.recipe.voice import Voice

    voice = Voice.open(args.voice, dict(args.changes), progress=args.progress or "lines").run(again=args.again)
    voice.results.tell(f'done; now: spear-tts say {args.voice} "some text" --wav said.wav')
    return 0


def _stage(args: argparse.Namespace) -> int:
    from spear_tts_pytorch.recipe.voice import Voice

    changes = dict(args.changes) | ({"evaluate.split": args.split} if args.split else {})
    voice = Voice.open(args.voice, changes, progress=args.progress or "lines")
    if args.stage != "units" or not (args.report or args.layers or args.clusters or args.alignments):
        getattr(voice, args.stage)(again=args.again)
        return 0
    from spear_tts_pytorch.recipe.units_report import table

    made = voice.units_report(layers=args.layers, clusters=args.clusters, alignments=args.alignments)
    print(table(made))
    if made["advice"]:
        print(f"lowest error of the combinations: {made['advice']}")
    return 0
