"""A look at the data of a voice.

In: `Clips`. Out: a `Survey` with hours, rates, speakers and alphabets, which prints as some lines.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from spear_tts_pytorch.data.corpora.clip_files import few
from spear_tts_pytorch.recipe.clips import Clips, named

RARE = 3  # times that a character must occur, not to be called rare
LITTLE_TEXT, LITTLE_AUDIO = 5.0, 20.0  # minutes
CHARACTERS_A_SECOND = 30.0  # nobody speaks faster


@dataclass
class Survey:
    """What the data of a voice are.

    Attributes:
        clips: number of clips that can be read.
        seconds: their duration together.
        labelled, test: numbers of labelled clips and of clips kept for testing.
        unlabelled: number of the others, which the voice learns from without their texts, if they have any.
        labelled_seconds: duration of the labelled clips.
        transcribed_seconds: duration of the clips of recordings with a transcript, which the reader aligns.
        known_seconds: duration of all clips with a text but the test's.
        rates: number of clips by sampling rate in Hz.
        speakers: number of clips by speaker, where it is known.
        alphabet: how often each character occurs in the labelled texts.
        unpaired: number of sentences without audio.
        odd: remarks on what is unusual, a line each.
    """

    clips: int
    seconds: float
    labelled: int
    labelled_seconds: float
    test: int
    unlabelled: int
    rates: Counter[int]
    speakers: Counter[str]
    alphabet: Counter[str]
    unpaired: int = 0
    transcribed_seconds: float = 0.0
    known_seconds: float = 0.0
    odd: list[str] = field(default_factory=list[str])

    @property
    def minutes(self) -> float:
        """All audio, in minutes."""
        return self.seconds / 60

    @property
    def labelled_minutes(self) -> float:
        """The labelled audio, in minutes."""
        return self.labelled_seconds / 60

    def __str__(self) -> str:
        letters = "".join(sorted(character for character in self.alphabet if not character.isspace()))
        speakers = f"{len(self.speakers)} speakers" if len(self.speakers) > 1 else "one speaker or unknown"
        rates = ", ".join(f"{rate} Hz" for rate, _ in self.rates.most_common())
        lines = [
            f"{self.clips} clips, {self.minutes:.1f} minutes, {rates}, {speakers}",
            f"{self.labelled} clips with a text to learn from ({self.labelled_minutes:.1f} minutes), {self.test} for testing, "
            f"{self.unlabelled} others that are heard without a text",
            f"{len(letters)} characters: {letters}",
        ]
        lines += [f"{self.unpaired} sentences without audio"] if self.unpaired else []
        return "\n".join(lines + [f"note: {remark}" for remark in self.odd])


def survey(clips: Clips) -> Survey:
    """Counts clips, hours, rates, speakers and characters, and notes what is unusual."""
    readable = {id_: one for id_, one in clips.every.items() if one.sample_hz}
    tested = set(clips.test)
    alphabet = Counter(character for id_ in clips.labelled for character in clips.text(id_))
    found = Survey(
        clips=len(readable),
        seconds=clips.seconds(readable),
        labelled=len(clips.labelled),
        labelled_seconds=clips.seconds(id_ for id_ in clips.labelled if id_ in readable),
        test=len(clips.test),
        unlabelled=len(clips.unlabelled),
        rates=Counter(one.sample_hz for one in readable.values()),
        speakers=Counter(one.speaker for one in readable.values() if one.speaker),
        alphabet=alphabet,
        unpaired=len(clips.unpaired),
        transcribed_seconds=clips.seconds(i for one in clips.transcripts.values() for i in one.clips if i in readable),
        known_seconds=clips.seconds(id_ for id_ in readable if id_ not in tested and clips.every[id_].text),
    )
    found.odd = _odd(clips, found, set(readable))
    return found


def _odd(clips: Clips, found: Survey, readable: set[str]) -> list[str]:
    notes = list(clips.remarks)
    unread = [id_ for id_ in clips.every if id_ not in readable]
    if unread:
        notes.append(f"{len(unread)} clips cannot be read ({few(unread)}): they are left out")
    if not clips.unlabelled:
        notes.append("all clips have a text: only columns (a) and (b) of the paper apply, there is nothing to label")
    if found.labelled_minutes < LITTLE_TEXT:
        notes.append(f"{found.labelled_minutes:.1f} labelled minutes are few: 15 and more read much better")
    if found.minutes < LITTLE_AUDIO:
        notes.append(f"{found.minutes:.1f} minutes of audio are few: an hour and more says much more")
    rare = sorted(character for character, count in found.alphabet.items() if count < RARE)
    if rare:
        shown = ", ".join(map(named, rare[:5]))
        notes.append(f"{len(rare)} characters occur less than {RARE} times: {shown}{', ...' if len(rare) > 5 else ''}")
    fast = [id_ for id_ in clips.labelled if id_ in readable and _too_fast(clips, id_)]
    if fast:
        notes.append(f"{len(fast)} texts are too long for their audio ({few(fast)}): do they belong together?")
    if len(found.speakers) > 1:
        notes.append(
            "several speakers: labels of one speaker are worse for others; `--set data.speaker=NAME` takes one"
        )
    return notes


def _too_fast(clips: Clips, id_: str) -> bool:
    return len(clips.text(id_)) > CHARACTERS_A_SECOND * max(clips.every[id_].seconds, 0.01)
