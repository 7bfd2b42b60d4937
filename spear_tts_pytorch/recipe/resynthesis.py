"""The network from ids to sound of a voice: how it is made, and what is heard through it.

In: `Results` with the tokenizer of speech. Out: `UnitToSpeech`, learned from all audio but the test's; and `Heard`, the errors
of a recogniser and the distortion to the recordings, of rows of ids that say the test's texts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spear_tts_pytorch.data.audio import resample
from spear_tts_pytorch.data.corpora.corpus import Utterance
from spear_tts_pytorch.recipe.measure import Heard, rate_of
from spear_tts_pytorch.recipe.recogniser import Recogniser, spoken
from spear_tts_pytorch.recipe.records import HISTORY, Made, digest, write_history
from spear_tts_pytorch.recipe.results import MODEL, NETWORK, RESYNTHESIS, Results
from spear_tts_pytorch.recipe.sources import relative
from spear_tts_pytorch.recipe.stages import Rows
from spear_tts_pytorch.recipe.units import on_gpu, place_of_encoder
from spear_tts_pytorch.tokenizers.semantic import SemanticTokenizer
from spear_tts_pytorch.tokenizers.unit_to_speech import CONFIG_NAME, TENSORS_NAME, UnitToSpeech
from spear_tts_pytorch.tokenizers.whisper_mel import BANDS, SAMPLE_HZ, log_power, whisper_mel
from spear_tts_pytorch.utils.distributed import in_first_process
from spear_tts_pytorch.utils.files import digest_of_file
from spear_tts_pytorch.utils.json_files import read_object
from spear_tts_pytorch.utils.metrics import character_errors, mel_cepstral_distortion
from spear_tts_pytorch.utils.values import absolute_path

HISTORY_NAME = "ids to sound"


def resynthesis_causes(results: Results) -> dict[str, Any]:
    """What the network depends on. Clips that are added later do not change it, nor do they change the units."""
    return {
        "units": results.output("units"),
        "resynthesis": results.settings.section("resynthesis"),
        "seed": results.settings.training.seed,
        "test clips": digest(results.clips.test),
    }


def resynthesis(results: Results) -> Made:
    """Learns to turn ids into sound. Collective."""
    folder, test = results.place(RESYNTHESIS), set(results.clips.test)
    every = [one for id_, one in results.clips.every.items() if id_ not in test]
    chosen = _chosen(every, 3600 * results.settings.resynthesis.hours)
    learned = list[dict[str, float]]()
    in_first_process(lambda: learned.extend(_fit(results, chosen, folder)))
    write_history(folder, {HISTORY_NAME: learned})
    results.forget("_network")
    last = read_object(folder / HISTORY, "the records of a stage", f"remove {folder}")[HISTORY_NAME][-1]
    minutes = sum(one.seconds for one in chosen) / 60
    figures = {"clips": len(chosen), "minutes": round(minutes, 1), **last}
    says = f"learned from {minutes:.1f} min; log-mel spectra off by {last['loss']:.3f}"
    in_first_process(lambda: copy_network(results.place(RESYNTHESIS) / NETWORK, results.folder / MODEL))
    return Made(digest_of_file(folder / NETWORK / TENSORS_NAME), figures, says)


def _fit(results: Results, chosen: Sequence[Utterance], folder: Path) -> list[dict[str, float]]:
    """Makes and saves the network. Returns its losses."""
    options = results.settings.resynthesis
    network = UnitToSpeech.fit(
        chosen,
        on_gpu(results.saved_tokenizer()),
        steps=options.steps,
        dim=options.dim,
        depth=options.depth,
        batch_size=options.batch,
        lr=options.lr,
        device="cuda" if torch.cuda.is_available() else None,
        seed=results.settings.training.seed,
        progress=results.progress,
    )
    network.save(folder / NETWORK)
    return network.history


def copy_network(network: Path, model: Path) -> None:
    """Puts a copy of a network into the folder of a model, if both are there: the model alone is heard through it, too."""
    if (network / CONFIG_NAME).is_file() and model.is_dir():
        UnitToSpeech.load(network).save(model / RESYNTHESIS)


def network_of(model: Path, tokenizer: SemanticTokenizer | None) -> UnitToSpeech | None:
    """The network in the folder of a model; None if there is none for its tokenizer."""
    folder = model / RESYNTHESIS
    if tokenizer is None or not (folder / CONFIG_NAME).is_file():
        return None
    network = UnitToSpeech.load(folder)
    return network if network.fits(tokenizer) else None


def _chosen(clips: Sequence[Utterance], seconds: float) -> list[Utterance]:
    """Evenly spaced clips of about so many seconds together, at least one."""
    every = sum(one.seconds for one in clips)
    step = max(1.0, every / seconds)
    return [clips[int(place * step)] for place in range(max(1, int(len(clips) / step)))]


def with_recogniser(
    recogniser: str | os.PathLike[str] | None, folder: Path, changes: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of a new voice that a recogniser judges; it is opened to see that it can be.

    Args:
        recogniser: a folder, relative to the working directory, or a Hub id, whose files are downloaded now; None for none.
        folder: the new voice folder.
        changes: further settings, of which "evaluate.language" is the language of the recogniser.

    Raises:
        ImportError, FileNotFoundError, ValueError: the recogniser cannot be used.
    """
    if recogniser is None:
        return {}
    absolute_path("recogniser", recogniser)
    place = Path(recogniser).expanduser()
    Recogniser(
        place if place.exists() else recogniser, language=str(changes.get("evaluate.language", "")), device="cpu"
    )
    name = relative(place, folder) if place.exists() else os.fspath(recogniser)
    return {"evaluate.recogniser": name}


class Ear:
    """Hears what models say of the texts of some clips: called with rows of ids `[n]`, one for each text.

    Args:
        results: of a voice with a network from ids to sound.
        rows: the clips.

    Raises:
        ImportError, FileNotFoundError, ValueError: the recogniser of the settings cannot be used.
    """

    def __init__(self, results: Results, rows: Rows):
        options, network = results.settings.evaluate, results.network
        assert network is not None
        self.network, self.progress = network, results.progress
        self.texts = [spoken(text) for text in rows.texts]
        self.true_ids = rows.semantic
        self.clips = [results.clips.every[id_] for id_ in rows.ids]
        self.recogniser: Recogniser | None = None
        if options.recogniser:
            place = place_of_encoder(options.recogniser, results.folder)
            alphabet = "".join(results.characters.symbols)
            self.recogniser = Recogniser(place, language=options.language, alphabet=alphabet)

    def __call__(self, rows: Sequence[Tensor]) -> Heard:
        return self._heard([self._spectra(row) for row in rows])

    def floors(self) -> dict[str, Any]:
        """Figures of the recordings themselves and of their ids, of which no model can be better by much.

        Returns:
            `resynthesis_floor` and `resynthesis_floor_interval`: errors on true ids, durations predicted; `recording_floor` and
            `recording_floor_interval`: errors on recordings; `mcd_floor`: distortion of true ids.
        """
        ids, recordings = self(self.true_ids), self._heard(self.recordings)
        return {
            "resynthesis_floor": ids.cer,
            "resynthesis_floor_interval": ids.interval,
            "recording_floor": recordings.cer,
            "recording_floor_interval": recordings.interval,
            "mcd_floor": ids.mcd,
        }

    @cached_property
    def recordings(self) -> list[Tensor]:
        """The log-mel spectra of the clips themselves."""
        waveforms = [torch.from_numpy(resample(one.audio(), one.sample_hz, SAMPLE_HZ)) for one in self.clips]
        return [whisper_mel(wav) for wav in waveforms]

    def _spectra(self, ids: Tensor) -> Tensor:
        """Log-mel spectra `[n, 80]`, n = 0 if nothing was said."""
        if not len(ids) or (self.network.unique_consecutive and not int(self.network.durations(ids[None]).sum())):
            return torch.empty(0, BANDS)
        return self.network.log_mel(ids).cpu()

    def _heard(self, spectra: Sequence[Tensor]) -> Heard:
        pairs = [
            (log_power(one), log_power(true)) for one, true in zip(spectra, self.recordings, strict=True) if len(one)
        ]
        distortions = [mel_cepstral_distortion(one, true) for one, true in pairs]
        mcd = sum(distortions) / len(distortions) if distortions else None
        if self.recogniser is None:
            return Heard(None, None, mcd)
        read = self.recogniser.read(spectra, progress=self.progress)
        return Heard(*rate_of(*character_errors(read, self.texts)), mcd)
