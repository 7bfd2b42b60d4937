"""Corpora to folders of ids: what is written, what is left out, what is gone on with."""

import json
import os
import signal
from functools import partial

import many
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small
import soundfile
import torch
from shell import one_line_error
from torch.utils.data import Subset

from spear_tts_pytorch import (
    GeneratedAudioTextDataset,
    MelKmeans,
    SemanticToTextDatasetGenerator,
    SpeechSpeechPretrainer,
    TextToSemanticTrainer,
)
from spear_tts_pytorch.cli import main
from spear_tts_pytorch.data import speech_shards, tokenized
from spear_tts_pytorch.data.audio import resample
from spear_tts_pytorch.data.corpora import Utterance, readers
from spear_tts_pytorch.data.corpora.readers import read_corpus
from spear_tts_pytorch.data.pairs.shards import read_metadata
from spear_tts_pytorch.data.pairs.writer import PairWriter
from spear_tts_pytorch.data.tokenized import TokenizedSpeech, check_made_by, tokenize_corpus
from spear_tts_pytorch.tokenizers.consecutive import UniqueConsecutive
from spear_tts_pytorch.utils.files import locked

pytest.importorskip("sklearn")
RATE = 8000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """70 good clips and one of each kind that cannot be used."""
    folder, random = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    for index in range(70):
        tone = np.sin(np.arange(1600 + 40 * index) * random.uniform(0.1, 1.5)) * random.uniform(0.1, 0.5)
        soundfile.write(folder / f"clip{index:02d}.wav", tone + random.normal(0, 0.01, tone.shape), RATE)
    (folder / "clip03.txt").write_text("three")
    (folder / "text.wav").write_text("this is text")
    (folder / "zero.wav").write_bytes(b"")
    soundfile.write(folder / "silent.wav", np.zeros(1600), RATE)
    soundfile.write(folder / "short.wav", random.normal(0, 0.1, 80), RATE)
    soundfile.write(folder / "nan.wav", np.full(1600, np.nan, np.float32), RATE, subtype="FLOAT")
    (folder / "cut.wav").write_bytes((folder / "clip00.wav").read_bytes()[:30])
    return folder


BAD = {"text", "zero", "silent", "short", "nan", "cut"}


@pytest.fixture(scope="module")
def tokenizer(corpus):
    clips = [one.audio() for one in read_corpus(corpus) if one.id not in BAD]
    return MelKmeans.fit(clips, RATE, 16, progress=False)


def test_every_good_clip_is_there_and_every_bad_one_is_named(corpus, tokenizer, tmp_path):
    report = tokenize_corpus(read_corpus(corpus), tokenizer, tmp_path, rows_per_shard=20, progress=False)
    assert report.clips == 70 and set(report.skipped) == BAD
    assert (
        "silent" in report.skipped["silent"] and "NaN" in report.skipped["nan"] and "text.wav" in report.skipped["text"]
    )
    assert json.loads((tmp_path / "report.json").read_text())["skipped"] == report.skipped
    speech = TokenizedSpeech(tmp_path)
    assert len(speech) == 70 and speech.texts[speech.ids.index("clip03")] == "three"
    by_id = {one.id: one for one in read_corpus(corpus)}
    assert report.hours == pytest.approx(sum(by_id[id_].seconds for id_ in speech.ids) / 3600)
    for index, id_ in enumerate(speech.ids):
        assert torch.equal(speech[index], tokenizer(torch.as_tensor(by_id[id_].audio()))[0])


def test_interrupted_work_goes_on(corpus, tokenizer, tmp_path, monkeypatch):
    plain = tokenized._tokenized
    calls = []

    def dying(tokenizer, batch):
        calls.append(len(batch))
        if len(calls) == 65:
            raise KeyboardInterrupt
        return plain(tokenizer, batch)

    monkeypatch.setattr(tokenized, "_tokenized", dying)
    with pytest.raises(KeyboardInterrupt):
        tokenize_corpus(read_corpus(corpus), tokenizer, tmp_path / "a", rows_per_shard=10, progress=False)
    before = {path: path.read_bytes() for path in (tmp_path / "a").glob("*.parquet")}
    assert len(before) == 7, "what was done is written"
    monkeypatch.setattr(tokenized, "_tokenized", plain)
    tokenize_corpus(read_corpus(corpus), tokenizer, tmp_path / "a", rows_per_shard=10, progress=False)
    report = tokenize_corpus(read_corpus(corpus), tokenizer, tmp_path / "b", progress=False)
    assert all(path.read_bytes() == data for path, data in before.items())
    one, other = TokenizedSpeech(tmp_path / "a"), TokenizedSpeech(tmp_path / "b")
    assert one.ids == other.ids and all(torch.equal(one[i], other[i]) for i in range(report.clips))


def test_termination_writes_what_is_done(corpus, tokenizer, tmp_path, monkeypatch):
    plain, calls, before = tokenized._tokenized, [], signal.getsignal(signal.SIGTERM)
    tokenizer.save(tmp_path / "tokenizer")

    def terminated(tokenizer, batch):
        calls.append(batch)
        if len(calls) == 17:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(tokenizer, batch)

    monkeypatch.setattr(tokenized, "_tokenized", terminated)
    arguments = ["tokenize", str(corpus), str(tmp_path / "a"), "--tokenizer", str(tmp_path / "tokenizer")]
    assert main(arguments) == 143 and signal.getsignal(signal.SIGTERM) is before
    assert len(TokenizedSpeech(tmp_path / "a")) == 16
    assert main(arguments) == 0
    assert len(TokenizedSpeech(tmp_path / "a")) == 70


@pytest.mark.slow
def test_processes_are_one_and_lose_little(corpus, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenized, "BATCH_CLIPS", 4)

    def interrupted():
        yield from read_corpus(corpus)[:60]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize_corpus(interrupted(), tokenizer, tmp_path / "2", workers=2, progress=False)
    written = TokenizedSpeech(tmp_path / "2").ids
    assert 60 - 4 * 5 <= len(written) < 60, "two batches of each worker and one more are lost at most"
    for name in ("2", "0"):
        tokenize_corpus(read_corpus(corpus), tokenizer, tmp_path / name, progress=False)
    one, other = TokenizedSpeech(tmp_path / "0"), TokenizedSpeech(tmp_path / "2")
    assert one.ids == other.ids and all(torch.equal(one[i], other[i]) for i in range(len(one)))


def test_folders_of_other_tokenizers_and_ids_that_repeat_are_refused(corpus, tokenizer, tmp_path):
    utterances = read_corpus(corpus)[:3]
    tokenize_corpus(utterances, tokenizer, tmp_path, progress=False)
    with pytest.raises(ValueError, match="ids of another tokenizer"):
        tokenize_corpus(utterances, UniqueConsecutive(tokenizer), tmp_path, progress=False)
    (tmp_path / tokenized.TOKENIZER).unlink()
    with pytest.raises(ValueError, match="does not say which tokenizer made its ids"):
        tokenize_corpus(utterances, tokenizer, tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"1 ids come twice or more \(clip00\)"):
        tokenize_corpus(utterances + utterances[:1], tokenizer, tmp_path / "other", progress=False)
    assert not (tmp_path / "other").exists(), "before any work"
    with pytest.raises(ValueError, match="'clip00' comes twice"):
        tokenize_corpus(iter(utterances + utterances[:1]), tokenizer, tmp_path / "other", progress=False)
    with pytest.raises(FileNotFoundError, match="holds no tokenized speech"):
        TokenizedSpeech(tmp_path / "none")


def test_a_folder_has_one_run_at_a_time(corpus, tokenizer, tmp_path, capsys):
    with locked(tmp_path):
        with pytest.raises(OSError, match="written to by another process"):
            tokenize_corpus(read_corpus(corpus)[:3], tokenizer, tmp_path, progress=False)
        assert main(["tokenize", str(corpus), str(tmp_path), "--no-progress"]) == 2
        assert "written to by another process" in capsys.readouterr().err
    assert tokenize_corpus(read_corpus(corpus)[:3], tokenizer, tmp_path, progress=False).clips == 3


class Exhausted:
    """A tokenizer that has too little memory."""

    codebook_size, target_sample_hz, downsample_factor = 9, RATE, 80

    def __call__(self, wav, lengths=None, input_sample_hz=None, flatten=True):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_too_little_memory_is_no_fault_of_the_clip(corpus, tmp_path):
    with pytest.raises(torch.OutOfMemoryError):
        tokenize_corpus(read_corpus(corpus)[:3], Exhausted(), tmp_path, progress=False)
    assert not (tmp_path / "report.json").exists()


def test_a_clip_too_large_for_memory_is_left_out_by_name(corpus, tokenizer, tmp_path):
    def too_large():
        raise MemoryError

    utterances = read_corpus(corpus)[:20]
    utterances[7] = Utterance("large", None, None, RATE, too_large)
    report = tokenize_corpus(utterances, tokenizer, tmp_path, progress=False)
    assert report.skipped == {"large": "MemoryError"} and report.clips == 19
    with pytest.warns(UserWarning, match="large is left out: MemoryError"):
        tokenized.fit_tokenizer(utterances, 4, progress=False)


def test_clips_of_impossible_rates_and_peaks_are_left_out(corpus, tmp_path):
    random = np.random.default_rng(0)
    for rate in (1, 2**31 - 1):
        soundfile.write(tmp_path / f"at{rate}.wav", random.normal(0, 0.1, 1600), rate)
    soundfile.write(tmp_path / "loud.wav", 1e38 * random.uniform(-1, 1, 1600), RATE, subtype="FLOAT")
    utterances = [*read_corpus(tmp_path), *read_corpus(corpus)[:20]]
    with pytest.warns(UserWarning, match=r"1 of 21 clips were left out: .* not in -1\.\.1"):
        tokenizer = tokenized.fit_tokenizer(utterances, 4, progress=False)
    report = tokenize_corpus(utterances, tokenizer, tmp_path / "ids", progress=False)
    assert set(report.skipped) == {"at1", f"at{2**31 - 1}", "loud"} and "not audio in -1..1" in report.skipped["loud"]
    assert "at1.wav gives 1 Hz" in report.skipped["at1"]


def test_clips_of_several_rates(tokenizer, tmp_path):
    random = np.random.default_rng(0)
    for name, rate in (("a", 2 * RATE), ("b", RATE), ("c", RATE)):
        soundfile.write(tmp_path / f"{name}.wav", random.normal(0, 0.1, rate // 2), rate)
    utterances = read_corpus(tmp_path)
    tokenize_corpus(utterances, tokenizer, tmp_path / "ids", progress=False)
    speech = TokenizedSpeech(tmp_path / "ids")
    for row, one in zip(speech, utterances, strict=True):
        assert torch.equal(row, tokenizer(torch.as_tensor(one.audio()), None, one.sample_hz)[0])
    assert abs(len(speech[0]) - len(speech[1])) <= 1 and torch.equal(speech[-1], speech[2])
    ids = sum(map(len, speech))
    assert repr(speech) == f"TokenizedSpeech(3 clips, 0.00 hours, {ids} ids in {tmp_path / 'ids'})"
    assert speech.seconds.tolist() == [0.5, 0.5, 0.5]
    with pytest.raises(IndexError, match="3 is out of range for 3 items"):
        speech[3]
    own = tokenized.fit_tokenizer(utterances, 4, progress=False)
    resampled = [resample(one.audio(), one.sample_hz, RATE) for one in utterances]
    assert own.target_sample_hz == RATE
    assert own.fingerprint == MelKmeans.fit(resampled, RATE, 4, progress=False).fingerprint


@pytest.mark.parametrize(("place", "workers"), [("id", 0), ("text", 0), ("speaker", 0), ("speaker", 1)])
def test_a_clip_with_words_that_are_no_unicode_is_left_out_alone(corpus, tokenizer, tmp_path, place, workers):
    clips = [one for one in read_corpus(corpus) if one.id not in BAD][:4]
    setattr(clips[2], place, "caf\udce9")
    report = tokenize_corpus(clips, tokenizer, tmp_path, progress=False, workers=workers)
    assert report.clips == 3 and TokenizedSpeech(tmp_path).ids == [clips[index].id for index in (0, 1, 3)]
    [(name, reason)] = report.skipped.items()
    assert name == ("caf\\udce9" if place == "id" else clips[2].id) and f"{place} is no Unicode text" in reason
    assert json.loads((tmp_path / "report.json").read_text())["skipped"] == report.skipped


class Sign:
    """A tokenizer: each 10 samples are an id, the sign of their sum."""

    codebook_size, target_sample_hz, downsample_factor = 2, RATE, 10

    def __call__(self, wav, lengths=None, input_sample_hz=None, flatten=True):
        return (wav.unflatten(1, (-1, 10)).sum(dim=-1) > 0).long()


def tones(number):
    return [Utterance(f"{index:05d}", None, None, RATE, lambda: np.ones(20, np.float32)) for index in range(number)]


def killed_at(folder, place, every):
    speech_shards.SECONDS_PER_WRITE = every
    utterances = tones(2500)

    def killed():
        os.kill(os.getpid(), signal.SIGKILL)

    utterances[place] = Utterance("last", None, None, RATE, killed)
    tokenize_corpus(utterances, Sign(), folder, progress=False)


@pytest.mark.slow
def test_a_killed_process_loses_at_most_a_thousand_clips_or_a_minute(tmp_path):
    for name, place, every, kept in (("clips", 2400, 1000.0, 2000), ("time", 40, 0.0, 40)):
        assert many.run(1, killed_at, tmp_path / name, place, every) == [(False, "killed")]
        assert len(TokenizedSpeech(tmp_path / name)) == kept
        assert tokenize_corpus(tones(2500), Sign(), tmp_path / name, progress=False).clips == 2500
        assert sorted(TokenizedSpeech(tmp_path / name).ids) == [one.id for one in tones(2500)]
        assert {path.suffix for path in (tmp_path / name).iterdir() if path.name != ".lock"} == {".parquet", ".json"}


def test_a_shard_that_grows_is_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(speech_shards, "SECONDS_PER_WRITE", 0.0)
    tokenize_corpus(tones(25), Sign(), tmp_path, rows_per_shard=10, progress=False)
    assert len(list(tmp_path.glob("*.parquet"))) == 3
    monkeypatch.setattr(speech_shards, "IDS_PER_SHARD", 6)
    tokenize_corpus(tones(31), Sign(), tmp_path, progress=False)
    assert len(list(tmp_path.glob("*.parquet"))) == 5, "three clips of two ids are a shard"
    assert TokenizedSpeech(tmp_path).ids == [one.id for one in tones(31)]


@pytest.mark.slow
def test_a_killed_worker_is_one_line(corpus, tokenizer, tmp_path, monkeypatch, capsys):
    tokenizer.save(tmp_path / "tokenizer")

    utterances = read_corpus(corpus)
    utterances.insert(60, Utterance("last", None, None, RATE, partial(signal.raise_signal, signal.SIGKILL)))
    with pytest.raises(ChildProcessError, match="was killed, perhaps because memory was short"):
        tokenize_corpus(utterances, tokenizer, tmp_path / "a", workers=1, progress=False)
    assert len(TokenizedSpeech(tmp_path / "a")) > 0, "what was done is kept"
    monkeypatch.setattr(readers, "read_corpus", lambda *args, **options: utterances)
    arguments = [
        "tokenize",
        str(corpus),
        str(tmp_path / "b"),
        "--tokenizer",
        str(tmp_path / "tokenizer"),
        "--no-progress",
    ]
    assert main([*arguments, "--workers", "2"]) == 2
    one_line_error(capsys, "was killed", "fewer workers")


def rewrite(folder, **columns):
    """Replaces columns of the only shard."""
    path = next(folder.glob("*.parquet"))
    table = pq.read_table(path)
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    pq.write_table(table, path)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"semantic_ids": pa.array([[0, 1], [1, None]])}, r"row 1 .*'semantic_ids' holds null"),
        ({"semantic_ids": pa.array([None, [1]])}, r"row 0 .*'semantic_ids' holds null"),
        ({"semantic_ids": pa.array([[0.0], [1.0, 1.7]])}, r"row 1 .*'semantic_ids' holds 1\.7"),
        ({"semantic_ids": pa.array([[0.0], [float("nan")]])}, r"row 1 .*'semantic_ids' holds nan"),
        ({"semantic_ids": pa.array([[0, 2**31], [1]])}, r"row 0 .*'semantic_ids' holds 2147483648"),
        ({"semantic_ids": pa.array([[0], [-1]])}, r"row 1 .*'semantic_ids' holds -1"),
        ({"semantic_ids": pa.array([["a"], ["b"]])}, r"row 0 .*'semantic_ids' holds 'a'"),
        ({"semantic_ids": pa.array([7, 8])}, r"row 0 .*'semantic_ids' holds 7"),
        ({"id": pa.array(["a", None])}, r"row 1 .*'id' holds null"),
        ({"seconds": pa.array([1.0, None])}, r"row 1 .*'seconds' holds null"),
        ({"seconds": pa.array([-1.0, 1.0])}, r"row 0 .*'seconds' holds -1\.0"),
    ],
)
def test_a_shard_of_something_else_is_refused_by_file_row_and_column(tmp_path, columns, words):
    tokenize_corpus(tones(2), Sign(), tmp_path, progress=False)
    rewrite(tmp_path, **columns)
    with pytest.raises(ValueError, match=rf"speech-000000\.parquet .*{words}"):
        TokenizedSpeech(tmp_path)


def test_shards_of_other_types_with_right_ids_are_read(tmp_path):
    tokenize_corpus(tones(3), Sign(), tmp_path, progress=False)
    for kind in (pa.large_list(pa.int64()), pa.list_(pa.uint8()), pa.list_(pa.float32())):
        rewrite(tmp_path, semantic_ids=pa.array([[0, 1], [], [1]], kind))
        assert [row.tolist() for row in TokenizedSpeech(tmp_path)] == [[0, 1], [], [1]]
        assert TokenizedSpeech(tmp_path).lengths.tolist() == [2, 0, 1]


def test_ids_of_another_tokenizer_are_refused_by_labelling_and_training(corpus, tokenizer, tmp_path):
    others = [one.audio()[::2] for one in read_corpus(corpus) if one.id not in BAD]
    other = MelKmeans.fit(others, RATE, 16, progress=False)
    tokenize_corpus([one for one in read_corpus(corpus) if one.id[-1] == "1"], tokenizer, tmp_path, progress=False)
    speech = TokenizedSpeech(tmp_path)
    part = Subset(speech, [0, 1, 2])
    for wrong in (other, UniqueConsecutive(tokenizer)):
        model = small.make_model(wav2vec=wrong, num_semantic_token_ids=16)
        for dataset in (speech, part):
            with pytest.raises(ValueError, match="ids of another tokenizer than the model's"):
                SemanticToTextDatasetGenerator(model, dataset=dataset, folder=tmp_path / "pairs", progress=False)
            with pytest.raises(ValueError, match="ids of another tokenizer than the model's"):
                SpeechSpeechPretrainer(model, dataset=dataset, num_train_steps=1, num_warmup_steps=0, batch_size=2)
    model = small.make_model(wav2vec=tokenizer, num_semantic_token_ids=16)
    counts = SemanticToTextDatasetGenerator(model, dataset=part, folder=tmp_path / "pairs", progress=False)(4)
    assert counts["written"] == 3 and read_metadata(tmp_path / "pairs")["semantic_tokenizer"] == tokenizer.fingerprint
    (tmp_path / "tokenizer_of_ids.json").unlink()  # as folders of ids from elsewhere
    check_made_by(other, TokenizedSpeech(tmp_path))


def test_pairs_of_another_tokenizer_are_refused(tokenizer, tmp_path):
    ids = torch.tensor([1, 2])
    with PairWriter(tmp_path, num_semantic_token_ids=16, semantic_tokenizer="other") as writer:
        writer.write("one", ids, ids)
    model, pairs = small.make_model(wav2vec=tokenizer, num_semantic_token_ids=16), GeneratedAudioTextDataset(tmp_path)
    with pytest.raises(ValueError, match="semantic_tokenizer other, the model has"):
        TextToSemanticTrainer(model, dataset=pairs, num_train_steps=1, num_warmup_steps=0, batch_size=1)
