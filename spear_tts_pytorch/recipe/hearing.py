"""First labels: what a reader of the encoder's features hears in clips without a text.

In: `Results` of a voice whose units are those of a public encoder. Out: texts and scores by clip. The reader learns from the
labelled clips alone, and then, if asked, from its own labels, too. An encoder's upper layers hold far more of what is said
than ids do: a reader of features had 19 % of the characters wrong where one of ids had 31, learned from the same 15 minutes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate.utils import set_seed
from safetensors.torch import load, save
from torch import Tensor
from tqdm.auto import tqdm

from spear_tts_pytorch.data.label_writer import fingerprint_of
from spear_tts_pytorch.data.pairs.dataset import GeneratedAudioTextDataset
from spear_tts_pytorch.data.pairs.shards import list_shards
from spear_tts_pytorch.data.pairs.writer import PairWriter
from spear_tts_pytorch.recipe.feature_reader import FeatureReader
from spear_tts_pytorch.recipe.features import Features, clip_features, extract, open_layers
from spear_tts_pytorch.recipe.fusion import Fusion
from spear_tts_pytorch.recipe.results import Results
from spear_tts_pytorch.recipe.stages import Rows, language_model
from spear_tts_pytorch.recipe.units import place_of_encoder
from spear_tts_pytorch.tokenizers.encoders import SpeechEncoder
from spear_tts_pytorch.tokenizers.text import CharacterTokenizer
from spear_tts_pytorch.utils.distributed import in_first_process
from spear_tts_pytorch.utils.files import write_whole
from spear_tts_pytorch.utils.json_files import read_object
from spear_tts_pytorch.utils.metrics import character_error_rate

Heard = dict[str, tuple[str, float]]
"""Id of a clip -> its text, and the text's log-probability per character; higher is surer."""

FEATURES, WEIGHTS, FUSION, HEARD = (
    "labelled-features.bin",
    "feature-reader.safetensors",
    "feature-reader.json",
    "heard.json",
)
ALL = "all-features.bin"
BEAM = 32
KEEP_SECONDS = 30.0  # between two times that labels are written


def listens(results: Results) -> bool:
    """Whether the labels of a voice come from a reader of features."""
    return results.settings.backtranslate.features and bool(results.settings.units.encoder)


class Listener:
    """Transcribes clips by a reader of features and a language model.

    Args:
        reader: of features.
        characters: the alphabet.
        fusion: of the reader and a language model.
    """

    def __init__(self, reader: FeatureReader, characters: CharacterTokenizer, fusion: Fusion):
        self.reader, self.characters, self.fusion = reader, characters, fusion

    def __call__(self, features: Tensor) -> tuple[str, float]:
        """The text of a clip's features `[n, d]`, and its score."""
        ids, score = self.fusion.decode(self.reader.log_probs(features))
        return self.spell(ids), score

    def spell(self, ids: Tensor) -> str:
        """Text ids `[m]` as a text."""
        return self.characters.decode(ids)[0] if len(ids) else ""


def learn(results: Results, folder: Path) -> dict[str, float]:
    """Trains the reader of features in the first process and writes it to `folder`, unless it is there. Collective.

    Returns:
        Figures: the weight and the bonus of the language model, and "features_cer" on development clips if there are.
    """
    in_first_process(lambda: None if (folder / FUSION).is_file() else _train(results, folder))
    return read_object(folder / FUSION, "figures of a reader", f"remove {folder}")


def _train(results: Results, folder: Path) -> None:
    options = results.settings.backtranslate
    labelled, chosen = results.labelled, results.chosen_unlabelled()
    texts = {id_: text for id_, text in zip(labelled.ids, labelled.text, strict=True) if len(text)}
    encoder = _encoder(results)
    wanted = [*texts, *results.development_ids]
    features = extract([results.clips.every[id_] for id_ in wanted], encoder, folder / FEATURES, results.progress)
    listener = _listener(results, _fitted(results, features, texts, options.feature_steps))
    figures = _chosen(results, listener, features)
    if options.feature_rounds and chosen.ids:
        own = extract([results.clips.every[id_] for id_ in chosen.ids], encoder, folder / ALL, results.progress)
        both = _Both(features, own)
        for number in range(1, options.feature_rounds + 1):
            bar = tqdm(own.places, desc=f"labels, round {number}", disable=None if results.progress else True)
            heard = {id_: listener(own[id_]) for id_ in bar}
            encoded = {id_: results.characters.encode([text])[0] for id_, (text, _) in heard.items() if text}
            listener = _listener(results, _fitted(results, both, encoded | texts, options.feature_steps * 2))
            figures = _chosen(results, listener, features)
        write_whole(folder / HEARD, json.dumps({id_: listener(own[id_]) for id_ in own.places}).encode())
        (folder / ALL).unlink()
    write_whole(folder / WEIGHTS, save({name: one.contiguous() for name, one in listener.reader.state_dict().items()}))
    write_whole(folder / FUSION, json.dumps(figures).encode())
    (folder / FEATURES).unlink()


def _encoder(results: Results) -> SpeechEncoder:
    units = results.settings.units
    try:
        return open_layers(place_of_encoder(units.encoder, results.folder), units.layer or None)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"backtranslate.features needs the whole encoder of the units: {error}; or do without it by "
            f"`--set backtranslate.features=false`"
        ) from error


class _Both:
    """Features of labelled and of other clips."""

    def __init__(self, first: Features, second: Features):
        self.first, self.second, self.dim = first, second, first.dim

    def part(self, id_: str) -> Features:
        return self.first if id_ in self.first else self.second

    def __getitem__(self, id_: str) -> Tensor:
        return self.part(id_)[id_]

    def stats(self, ids: Sequence[str]) -> Tensor:
        return self.first.stats([id_ for id_ in ids if id_ in self.first])

    @property
    def places(self) -> Mapping[str, tuple[int, int]]:
        return {**self.second.places, **self.first.places}


def _fitted(results: Results, features: Features | _Both, texts: Mapping[str, Tensor], steps: int) -> FeatureReader:
    seed, places = results.settings.training.seed, features.places
    pairs = [(id_, text) for id_, text in texts.items() if id_ in places]
    set_seed(seed)
    reader = FeatureReader(features.dim, results.characters.vocab_size)
    mean, deviation = features.stats([id_ for id_, _ in pairs])
    reader.mean.copy_(mean)
    reader.scale.copy_(1 / deviation)
    reader.to("cuda" if torch.cuda.is_available() else "cpu")
    frames = [places[id_][1] for id_, _ in pairs]
    reader.fit(features, pairs, steps=steps, frames=frames, seed=seed, progress=results.progress)
    return reader


def _listener(results: Results, reader: FeatureReader) -> Listener:
    characters, stage = results.characters, results.settings.label
    lm = language_model(characters, results.texts_for_lm(), stage.lm_order)
    return Listener(reader, characters, Fusion(lm, stage.lm_weight, stage.length_bonus, BEAM))


def _chosen(results: Results, listener: Listener, features: Features) -> dict[str, float]:
    """Chooses the language model's weight on development clips, if there are some."""
    usable = [id_ for id_ in results.development_ids if id_ in features]
    rows, texts = [listener.reader.log_probs(features[id_]) for id_ in usable], list(map(results.clips.text, usable))
    listener.fusion = listener.fusion.chosen(rows, texts, listener.spell)
    figures = {"lm_weight": listener.fusion.lm_weight, "length_bonus": listener.fusion.length_bonus}
    if usable:
        found = [listener.spell(listener.fusion.decode(row)[0]) for row in rows]
        figures["features_cer"] = round(character_error_rate(found, texts), 2)
    return figures


def hear(results: Results, ids: Sequence[str]) -> Heard:
    """The labels of clips, by the reader that `learn` wrote. Those that it heard before are not heard again. Collective.

    Clips that cannot be used are missing.
    """
    path = results.place("backtranslate") / HEARD
    in_first_process(lambda: _hear(results, ids, path))
    known = read_object(path, "labels", f"remove {path}")
    return {id_: (known[id_][0], known[id_][1]) for id_ in ids if id_ in known}


def heard_pairs(results: Results, rows: Rows, folder: Path) -> GeneratedAudioTextDataset:
    """The labels of clips as pairs in a folder, beside those that it holds already. Collective."""
    heard = hear(results, rows.ids)
    in_first_process(lambda: _write_pairs(results, rows, heard, folder))
    return GeneratedAudioTextDataset(folder)


def _write_pairs(results: Results, rows: Rows, heard: Heard, folder: Path) -> None:
    there = set(GeneratedAudioTextDataset(folder).ids) if folder.is_dir() and list_shards(folder) else set[str]()
    semantic, characters = results.tokenizer, results.characters
    with PairWriter(
        folder,
        num_semantic_token_ids=semantic.codebook_size,
        num_text_token_ids=characters.vocab_size,
        unique_consecutive=getattr(semantic, "unique_consecutive", None),
        semantic_tokenizer=fingerprint_of(semantic),
    ) as writer:
        for id_, ids in zip(rows.ids, rows.semantic, strict=True):
            if id_ in heard and id_ not in there:
                text, score = heard[id_]
                encoded = characters.encode([text])[0] if text else torch.empty(0, dtype=torch.long)
                writer.write(id_, ids, encoded, text=text, score=score)


def _hear(results: Results, ids: Sequence[str], path: Path) -> None:
    known = read_object(path, "labels", f"remove {path}") if path.is_file() else {}
    missing = [id_ for id_ in ids if id_ not in known]
    if not missing and path.is_file():
        return
    folder, encoder = path.parent, _encoder(results)
    figures = read_object(folder / FUSION, "figures of a reader", f"remove {folder}")
    weights = load((folder / WEIGHTS).read_bytes())
    reader = FeatureReader(len(weights["mean"]), results.characters.vocab_size)
    reader.load_state_dict(weights)
    listener = _listener(results, reader.to("cuda" if torch.cuda.is_available() else "cpu").eval())
    weights_of_lm = {"lm_weight": figures["lm_weight"], "length_bonus": figures["length_bonus"]}
    listener.fusion = replace(listener.fusion, **weights_of_lm)
    written = time.monotonic()
    for id_ in tqdm(missing, desc="first labels", unit="clip", disable=None if results.progress else True):
        try:
            known[id_] = listener(clip_features(results.clips.every[id_], encoder))
        except (ValueError, OSError):
            continue
        if time.monotonic() - written > KEEP_SECONDS:
            write_whole(path, json.dumps(known).encode())
            written = time.monotonic()
    write_whole(path, json.dumps(known).encode())
