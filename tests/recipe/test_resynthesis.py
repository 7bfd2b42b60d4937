"""The network from ids to sound in a voice: made once, heard, judged by a recogniser; voices without one are as before."""

import json

import pytest
import torch
import voices

from spear_tts_pytorch.recipe import Voice
from spear_tts_pytorch.recipe.records import RECORD, Record
from spear_tts_pytorch.recipe.results import EVERY_STAGE, RESYNTHESIS, STAGES
from spear_tts_pytorch.recipe.resynthesis import Ear, network_of, resynthesis_causes
from spear_tts_pytorch.recipe.saying import say
from spear_tts_pytorch.recipe.settings import Settings
from spear_tts_pytorch.tokenizers.unit_to_speech import UnitToSpeech

pytest.importorskip("transformers")
pytest.importorskip("sklearn", reason="MelKmeans.fit needs scikit-learn")
import small_encoders  # noqa: E402

pytestmark = pytest.mark.slow
SOUND = {"resynthesis.steps": 4, "resynthesis.dim": 16, "resynthesis.depth": 1, "resynthesis.batch": 2}


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory):
    return small_encoders.recogniser(tmp_path_factory.mktemp("recogniser"))


@pytest.fixture(scope="module")
def voice(tmp_path_factory, recogniser):
    place = tmp_path_factory.mktemp("sound")
    corpus = voices.corpus(place / "corpus")
    options = {"recogniser": recogniser, "changes": voices.TINY | SOUND, "progress": False}
    return Voice.new(place / "voice", corpus, test=3, **options).run()


def lines(voice, capsys):
    """What a run prints of each stage."""
    capsys.readouterr()
    Voice(voice.folder, progress="lines").run()
    found = (line.partition(": ") for line in capsys.readouterr().out.splitlines())
    return {stage: words for stage, _, words in found if stage in EVERY_STAGE}


def test_all_that_is_heard_stands_in_the_report(voice):
    assert voice.results.plan == EVERY_STAGE and not any(voice.status().values())
    summary = json.loads((voice.folder / "results.json").read_text())
    column = summary["columns"]["d"]
    for name in ("resynthesis_cer", "resynthesis_cer_best"):
        low, high = column[name.replace("cer", "interval")]
        assert low <= column[name] <= high
    assert column["mcd"] > 0 and column["mcd_best"] > 0 and summary["mcd_floor"] > 0
    assert summary["recording_floor"] > 0 and summary["resynthesis_floor"] > 0
    assert len(summary["stages"][RESYNTHESIS]) > 4 and summary["settings"]["evaluate"]["recogniser"]
    report = (voice.folder / "report.md").read_text()
    assert "| floor: recordings |" in report and "| resynthesised |" in report
    assert "Resynthesised speech" in (voice.folder / "report.html").read_text()
    assert {json.loads(line)["stage"] for line in (voice.folder / "metrics.jsonl").read_text().splitlines()} >= {
        "ids to sound"
    }
    assert (voice.folder / "audio" / "clip-1-ids.wav").is_file()


def test_the_voice_and_its_model_alone_speak_through_the_network(voice):
    said = voice.say("one two three")
    assert isinstance(said.resynthesizer, UnitToSpeech) and said.sample_hz == 16000
    model = voice.results.model
    network = network_of(voice.folder / "model", model.wav2vec)
    ids = torch.tensor([1, 2, 3, 2])
    assert network is not None and torch.equal(network.log_mel(ids), voice.results.network.log_mel(ids))
    assert say(model, ["one"], resynthesizer=network)[0].resynthesizer is network
    assert network_of(voice.folder, model.wav2vec) is None and network_of(voice.folder / "model", None) is None


def test_it_is_kept_and_made_again_when_its_settings_change(voice, capsys):
    assert all(words.startswith("kept") for words in lines(voice, capsys).values())
    before = voice.results.record(RESYNTHESIS).output
    Voice.open(voice.folder, {"resynthesis.steps": 5}, progress=False)
    found = lines(voice, capsys)
    again = {stage for stage, words in found.items() if not words.startswith("kept")}
    assert again == {RESYNTHESIS, "evaluate"}
    assert voice.results.record(RESYNTHESIS).output != before
    Voice.open(voice.folder, {"resynthesis.steps": 4}, progress=False).run()
    assert voice.results.record(RESYNTHESIS).output == before


def test_an_interrupted_training_is_repeated(voice):
    before, folder = voice.results.record(RESYNTHESIS).output, voice.results.place(RESYNTHESIS)
    causes = json.loads((folder / RECORD).read_text())["causes"]
    Record(causes).save(folder)
    (folder / "network" / "unit_to_speech.safetensors").write_bytes(b"half")
    other = Voice(voice.folder, progress=False)
    assert other.results.network is None and other.status()[RESYNTHESIS] == ["it was interrupted"]
    assert other.resynthesis().output == before


def test_only_the_judge_waits_for_it(voice):
    Voice.open(voice.folder, {"resynthesis.steps": 7}, progress=False)
    waits = Voice(voice.folder, progress=False).status()
    assert waits[RESYNTHESIS] == ["resynthesis.steps was 4 and is 7"] and waits["evaluate"] == [
        "resynthesis comes first"
    ]
    assert not any(waits[stage] for stage in STAGES[:-1])
    Voice.open(voice.folder, {"resynthesis.steps": 4}, progress=False)


def test_what_is_not_said_is_all_errors(voice):
    listener = Ear(voice.results, voice.results.test)
    nothing = torch.empty(0, dtype=torch.long)
    heard = listener([nothing] * len(listener.texts))
    assert heard.cer == 100 and heard.mcd is None
    one = listener([*listener.true_ids[:1], *[nothing] * (len(listener.texts) - 1)])
    assert one.mcd > 0


def test_a_voice_without_it_is_as_before(voice):
    with pytest.raises(
        ValueError, match=r"evaluate\.recogniser, 'x', reads resynthesised speech: set resynthesis\.steps"
    ):
        Settings().replaced({"evaluate.recogniser": "x"})
    changes = {"resynthesis.steps": 0, "evaluate.recogniser": ""}
    Voice.open(voice.folder, {"evaluate.recogniser": ""}, progress=False)
    other = Voice.open(voice.folder, {"resynthesis.steps": 0}, progress=False)
    assert other.results.plan == STAGES and other.results.network is None and list(other.status()) == list(STAGES)
    with pytest.raises(ValueError, match="this voice makes no network from ids to sound"):
        other.resynthesis()
    assert not {RESYNTHESIS, *changes} & set(Record.load(other.results.place("pretrain")).causes)
    settings = {"resynthesis.steps": 4, "evaluate.recogniser": voice.settings.evaluate.recogniser}
    assert Voice.open(voice.folder, settings, progress=False).results.plan == EVERY_STAGE
    assert set(resynthesis_causes(voice.results)) == {"units", "resynthesis", "seed", "test clips"}


def test_a_recogniser_that_cannot_be_used_is_named_before_any_work(tmp_path):
    corpus = voices.corpus(tmp_path / "corpus")
    with pytest.raises(FileNotFoundError, match="recogniser 'nowhere'"):
        Voice.new(tmp_path / "voice", corpus, test=3, recogniser="nowhere", progress=False)
    assert not (tmp_path / "voice" / "voice.toml").exists()
