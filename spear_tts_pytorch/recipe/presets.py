"""The settings that a new voice begins with: sizes, steps and dropout by hours of audio, minutes of text, and CPU or GPU.

In: a `Survey`. Out: `Settings`. Between the rows of a table values are interpolated, outside they stay as they are, so more
data never means fewer steps. The first row of each is what an hour of made-up speech with two minutes of text needs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from spear_tts_pytorch.recipe.settings import Settings
from spear_tts_pytorch.recipe.survey import Survey

Table = Sequence[tuple[float, float]]

# Hours of audio to updates. An update hears 2,500 ids, 90 seconds of speech: 450 pass 11 times over an hour, 3,000 pass 19
# times over four.
PRETRAIN: Table = ((1.1, 450), (4, 3_000), (20, 8_000), (100, 25_000))
# Hours of audio to updates. Fewer than pretraining: the model has learned to say speech there.
SPEAK: Table = ((0.5, 400), (4, 2_500), (20, 8_000), (100, 25_000))
# Hours of audio that a minute of text is worth in SPEAK: labels from little text are poor, and longer training learns
# their errors.
HOURS_A_MINUTE = 0.2
# Minutes of labelled audio to updates. 300 are right for two minutes and far too few for twenty (73 % of characters wrong);
# readers of one to three hours have not converged after 2,000.
READ: Table = ((3, 300), (20, 1_200), (60, 2_000), (300, 4_000), (1200, 10_000))
# The same to updates of the reader of features, whose update hears 70 seconds. At 15 minutes 300 and 400 read alike.
FEATURES: Table = ((15, 400), (60, 1_000))
# Hours with a text to the most updates of the judge, which has all texts and ends when it has converged; and to its width.
JUDGE: Table = ((1.1, 1_500), (4, 5_000), (20, 12_000))
JUDGE_WIDTH: Table = ((1.1, 128), (4, 256), (20, 256), (100, 512))
# Hours of audio to updates of the network from ids to sound, and hours that it learns from at most: their ids at full rate are
# found again, and their spectra stand in memory.
SOUND: Table = ((0.25, 600), (2, 1_500), (20, 6_000))
CPU_SOUND_HOURS, GPU_SOUND_HOURS = 2.0, 20.0
# Minutes of labelled audio to dropout and to the share of deleted ids. Where READ has many passes over its text, a reader
# without them learns it by heart (training loss 0.3, 48 % wrong). Above three hours passes are few.
DROPOUT: Table = ((3, 0.1), (15, 0.2), (180, 0.2), (600, 0.1))
TOKEN_DROPOUT: Table = ((3, 0.15), (15, 0.25), (180, 0.25), (600, 0.15))
# On two cores 12,000 updates of the smallest model take about an hour: on CPUs more data takes no more updates.
CPU_HOURS, CPU_MINUTES = 4.0, 60.0
# Hours of audio without a text that are labelled on CPUs: an hour takes about a minute and a half in each round.
CPU_LABELLED = 8.0
# On GPUs: from so many hours on, width, layers, heads, ids in a batch, clusters. Smaller data would not fill a larger model,
# and wide models need large batches to keep a GPU busy. The number of clusters hardly matters: more hours fill more.
GPU_SIZES = ((4.0, 256, 4, 4, 8_000, 100), (20.0, 512, 6, 8, 16_000, 200))
QUICK = {
    "model.dim": 64,
    "model.heads": 2,
    "model.depth": 2,
    "units.fit_clips": 200,
    "pretrain.steps": 60,
    "backtranslate.steps": 60,
    "backtranslate.feature_steps": 40,
    "label.most": 300,
    "train.steps": 80,
    "train.finetune_steps": 10,
    "evaluate.scratch_steps": 60,
    "evaluate.judge_steps": 120,
}
QUICK_SOUND = 60


def asked_settings(asked: Mapping[str, Any]) -> Settings:
    """What a new voice is asked to have, beside defaults; whether there will be a network from ids to sound is open."""
    return Settings().replaced({"resynthesis.steps": 1, **asked})


def preset_for(survey: Survey, asked: Mapping[str, Any], *, quick: bool) -> Settings:
    """The preset of a new voice that is asked to have some settings."""
    drawn = asked_settings(asked)
    width = drawn.model.dim if "model.dim" in asked else None
    return preset(survey, quick=quick, width=width, sound=bool(drawn.units.encoder or drawn.evaluate.recogniser))


def preset(
    survey: Survey,
    *,
    quick: bool = False,
    device: str | None = None,
    width: int | None = None,
    sound: bool = False,
) -> Settings:
    """The settings of a new voice.

    Args:
        survey: its data. Recordings with a transcript count as labelled.
        quick: smaller and shorter, whatever the data, to see that these go through: the model says little that is
            understood. Two minutes for 25 minutes of speech on two cores; of more speech only the units take longer.
        device: "cuda" or "cpu"; None is what this machine has.
        width: of the models, if it is chosen already; wide ones learn at lower rates.
        sound: whether a network learns to turn ids into sound: for units of an encoder, and for a recogniser as a judge.

    Returns:
        Settings that differ from the defaults in sizes, steps and dropout. Up to half an hour of audio with three minutes of
        text they are the defaults.
    """
    if quick:
        return Settings().replaced(QUICK | ({"resynthesis.steps": QUICK_SOUND} if sound else {}))
    on_gpu = torch.cuda.is_available() if device is None else device.startswith("cuda")
    most_hours, most_minutes = (math.inf, math.inf) if on_gpu else (CPU_HOURS, CPU_MINUTES)
    hours, all_minutes = survey.seconds / 3600, (survey.labelled_seconds + survey.transcribed_seconds) / 60
    known = min(survey.known_seconds / 3600, most_hours)
    heard, minutes = min(hours, most_hours), min(all_minutes, most_minutes)
    changes: dict[str, Any] = {
        "pretrain.steps": _steps(PRETRAIN, heard),
        "backtranslate.steps": _steps(READ, minutes),
        "backtranslate.feature_steps": _steps(FEATURES, minutes),
        "train.steps": _steps(SPEAK, min(heard, HOURS_A_MINUTE * all_minutes)),
        "evaluate.scratch_steps": _steps(READ, minutes),
        "evaluate.judge_steps": _steps(JUDGE, known),
        "evaluate.judge_width": 16 * round(_between(JUDGE_WIDTH, known) / 16),
        "model.dropout": round(_between(DROPOUT, all_minutes), 2),
        "backtranslate.token_dropout": round(_between(TOKEN_DROPOUT, all_minutes), 2),
    }
    if sound:
        most = GPU_SOUND_HOURS if on_gpu else CPU_SOUND_HOURS
        changes |= {"resynthesis.steps": _steps(SOUND, min(hours, most)), "resynthesis.hours": most}
    if on_gpu:
        changes |= _larger(hours)
    elif survey.unlabelled * survey.seconds > 3600 * CPU_LABELLED * survey.clips:
        changes["label.most"] = max(1, _in_two_digits(3600 * CPU_LABELLED * survey.clips / survey.seconds))
    return Settings().replaced(
        changes | _rates(changes.get("model.dim", Settings().model.dim) if width is None else width)
    )


def _larger(hours: float) -> dict[str, Any]:
    """Sizes for GPUs. Wider models gain from bfloat16."""
    sizes = [row for row in GPU_SIZES if hours >= row[0]]
    if not sizes:
        return {}
    _, dim, depth, heads, batch, clusters = sizes[-1]
    return {
        "model.dim": dim,
        "model.depth": depth,
        "model.heads": heads,
        "training.batch_tokens": batch,
        "training.precision": "bf16",
        "units.clusters": clusters,
    }


def _rates(width: int) -> dict[str, float]:
    """Learning rates for models of a width: lower ones for models that are wider than the smallest preset's."""
    small = Settings()
    rates = {"pretrain.lr": small.pretrain.lr, "backtranslate.lr": small.backtranslate.lr, "train.lr": small.train.lr}
    return {name: rate * min(1.0, small.model.dim / width) for name, rate in rates.items()}


def _steps(table: Table, amount: float) -> int:
    """Updates by a table, in two digits."""
    return _in_two_digits(_between(table, amount))


def _in_two_digits(number: float) -> int:
    return int(float(f"{number:.2g}"))


def _between(table: Table, amount: float) -> float:
    """The value of a table at an amount: between two rows a power of the amount, outside the nearest row's value."""
    before = [row for row in table if row[0] <= amount]
    after = [row for row in table if row[0] > amount]
    if not before or not after:
        return (before or after[:1])[-1][1]
    (x0, y0), (x1, y1) = before[-1], after[0]
    return y0 * (y1 / y0) ** (math.log(amount / x0) / math.log(x1 / x0))
