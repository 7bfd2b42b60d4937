"""Hostile arguments of trainers, train wrappers, the label generator and pairs: an object that works, or an error by name.

An error comes before anything is written. Trainers that could be made do one update.
"""

import os
import warnings

import pytest
from hostile import HOSTILE, arguments_of, outcome
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from training_setup import make_model, make_pairs, make_speech, train_options

from spear_tts_pytorch.data.generator import SemanticToTextDatasetGenerator
from spear_tts_pytorch.data.pairs import GeneratedAudioTextDataset, PairWriter, write_pairs
from spear_tts_pytorch.data.pairs.tools import stats
from spear_tts_pytorch.data.quality import select
from spear_tts_pytorch.objectives import SemanticToTextWrapper, SpeechSpeechPretrainWrapper, TextToSemanticWrapper
from spear_tts_pytorch.training.stages import SemanticToTextTrainer, SpeechSpeechPretrainer, TextToSemanticTrainer

TRAINERS = (SpeechSpeechPretrainer, SemanticToTextTrainer, TextToSemanticTrainer)
OTHERS = (SpeechSpeechPretrainWrapper, SemanticToTextWrapper, TextToSemanticWrapper, SemanticToTextDatasetGenerator)
STORES = (GeneratedAudioTextDataset, PairWriter, select, stats)
SLOW = {"compile", "num_workers", "grad_accum_every"}  # an update would compile, start processes or never end
EVERY = [(make, name) for make in (*TRAINERS, *OTHERS, *STORES) for name in arguments_of(make)]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder, arguments with which each of these can be made, and the weights of their model."""
    folder = tmp_path_factory.mktemp("hostile")
    write_pairs(folder / "pairs", make_pairs(), num_semantic_token_ids=20, num_text_token_ids=12)
    model = make_model(ctc=True)
    data = {SpeechSpeechPretrainer: make_speech(), SemanticToTextDatasetGenerator: make_speech()}
    arguments = {one: {"model": model, "dataset": data.get(one, make_pairs()), **train_options()} for one in TRAINERS}
    arguments |= {one: {"model": model} for one in OTHERS}
    arguments[SemanticToTextDatasetGenerator] |= {"dataset": make_speech(), "folder": folder / "labels"}
    arguments |= {one: {"folder": folder / "pairs"} for one in (GeneratedAudioTextDataset, stats)}
    arguments |= {PairWriter: {"folder": folder / "new"}}
    arguments[select] = {"pairs": GeneratedAudioTextDataset(folder / "pairs")}
    before = os.getcwd()
    os.chdir(folder)  # relative paths are among the hostile values
    yield folder, arguments, {name: value.clone() for name, value in model.state_dict().items()}
    os.chdir(before)


@settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_hostile_arguments(good, data):
    folder, arguments, weights = good
    make, name = data.draw(st.sampled_from(EVERY))
    names = {name}
    if data.draw(st.booleans()):
        names.add(data.draw(st.sampled_from([other for maker, other in EVERY if maker is make])))
    values = {one: data.draw(st.sampled_from(HOSTILE)) for one in sorted(names)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = outcome(lambda: make(**{**arguments[make], **values}), names, folder)
        if made is not None and make in TRAINERS and not SLOW & names:
            try:
                logs = made.train_step()
                assert logs["step"] == 1 and logs["loss"] >= 0
            except (TypeError, ValueError) as error:  # of an item
                assert names & {"dataset", "valid_dataset"} and "dataset" in str(error)
            arguments[make]["model"].load_state_dict(weights)  # a learning rate of 1e300 leaves few of them
