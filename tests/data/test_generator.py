"""Pseudo-labels: what is written, resuming, refusing, and decoding by other means."""

import json

import numpy as np
import pytest
import small
import torch
from labelled import TOKENIZER, Counting, make_ids, make_model

from spear_tts_pytorch.data.generator import SemanticToTextDatasetGenerator, model_hash
from spear_tts_pytorch.data.pairs import GeneratedAudioTextDataset, MockDataset, list_shards
from spear_tts_pytorch.tokenizers.mel_kmeans import MelKmeans
from spear_tts_pytorch.tokenizers.text import CharacterTokenizer
from spear_tts_pytorch.utils.files import locked


def read(folder):
    dataset = GeneratedAudioTextDataset(folder)
    return {name: (s.tolist(), t.tolist()) for name, (s, t) in zip(dataset.ids, dataset, strict=True)}


def test_the_three_lines_of_the_readme(tmp_path):
    tokenizer = MelKmeans.fit(small.make_clips([8000] * 4), 16000, num_clusters=8, progress=False)
    model = make_model(wav2vec=tokenizer, num_semantic_token_ids=None)
    dataset_generator = SemanticToTextDatasetGenerator(model=model, dataset=MockDataset(10), folder=str(tmp_path))
    dataset_generator(max_length=2)
    generated = GeneratedAudioTextDataset(folder=str(tmp_path))
    assert len(generated) == 10
    semantic_ids, text_ids = generated[0]
    assert 1 <= len(semantic_ids) <= 1024 // tokenizer.downsample_factor + 1 and len(text_ids) <= 2
    assert 0 <= semantic_ids.min() and semantic_ids.max() < 8


def test_rows_are_what_the_model_says_to_each_item_alone(tmp_path):
    model, items = make_model(), make_ids()
    generator = SemanticToTextDatasetGenerator(model, dataset=items, folder=tmp_path, batch_size=4, progress=False)
    assert repr(generator) == f"SemanticToTextDatasetGenerator(11 items to {tmp_path}, batches of 4)"
    counts = generator(max_length=12, beam_search_decode=False, temperature=0.0)
    assert counts == {"written": 11, "skipped": 0, "empty": 0, "failed": 0}
    dataset = GeneratedAudioTextDataset(tmp_path)
    assert dataset.ids == [str(index) for index in range(11)]  # the dataset's order, however they were batched
    truncated = 0
    for item, (semantic_ids, text_ids), text, score, source in zip(
        items, dataset, dataset.column("text"), dataset.column("score"), dataset.column("source"), strict=True
    ):
        options = dict(source_type="speech", target_type="text", max_length=12, temperature=0.0, return_scores=True)
        row, expected_score = model.generate(item[None], **options)
        ended = bool((row == model.eos_id["text"]).any())
        expected = [i for i in row[0].tolist() if i not in (0, model.eos_id["text"])]
        assert semantic_ids.tolist() == item.tolist() and text_ids.tolist() == expected
        assert text == TOKENIZER.decode(torch.tensor(expected)[None])[0]
        assert score == pytest.approx(float(expected_score), abs=1e-4)
        assert source == ("generated" if ended else "generated-truncated")
        truncated += not ended
    assert 0 < truncated  # otherwise the flag was not put to the test


def test_a_second_call_goes_on_where_the_first_stopped(tmp_path):
    model, items = make_model(), make_ids(100)
    options = dict(batch_size=1, rows_per_shard=4, progress=False)
    SemanticToTextDatasetGenerator(model, dataset=items, folder=tmp_path / "whole", **options)(max_length=4)
    broken = Counting(items, fail_after=50)
    with pytest.raises(RuntimeError, match="disk gone"):
        generator = SemanticToTextDatasetGenerator(
            model, dataset=broken, folder=tmp_path / "cut", on_error="raise", **options
        )
        generator(max_length=4)
    done = len(GeneratedAudioTextDataset(tmp_path / "cut"))
    assert 0 < done < 100
    rest = Counting(items)
    counts = SemanticToTextDatasetGenerator(model, dataset=rest, folder=tmp_path / "cut", **options)(max_length=4)
    assert counts == {"written": 100 - done, "skipped": done, "empty": 0, "failed": 0}
    assert rest.reads == 100 - done + 1  # one to see that it is the same speech
    assert read(tmp_path / "cut") == read(tmp_path / "whole")
    assert json.loads((tmp_path / "cut" / "dataset.json").read_text())["counts"]["pairs"] == 100
    assert len(GeneratedAudioTextDataset(tmp_path / "cut")) == 100  # each once


def test_another_model_or_other_options_are_refused(tmp_path):
    def run(seed=0, overwrite=False, **options):
        generator = SemanticToTextDatasetGenerator(
            make_model(seed), dataset=make_ids(3), folder=tmp_path, progress=False
        )
        return generator(overwrite=overwrite, **{"max_length": 4, **options})

    run()
    assert run() == {"written": 0, "skipped": 3, "empty": 0, "failed": 0}
    before = list_shards(tmp_path)[0].read_bytes()
    with pytest.raises(ValueError, match="model_hash is .* overwrite=True"):
        run(seed=1)
    with pytest.raises(ValueError, match="option beam_size is None there and 2 here"):
        run(beam_size=2)
    assert list_shards(tmp_path)[0].read_bytes() == before
    assert run(seed=1, overwrite=True)["written"] == 3
    assert len(GeneratedAudioTextDataset(tmp_path)) == 3


def test_another_dataset_with_the_same_names_is_refused(tmp_path):
    model = make_model()
    SemanticToTextDatasetGenerator(model, dataset=make_ids(3), folder=tmp_path, progress=False)(max_length=3)
    other = [row.flip(0) for row in make_ids(3)]
    other[0] = torch.cat((other[0], other[0]))
    generator = SemanticToTextDatasetGenerator(model, dataset=other, folder=tmp_path, progress=False)
    with pytest.raises(ValueError, match="'0' is other speech"):
        generator(max_length=3)
    assert generator(max_length=3, overwrite=True)["written"] == 3


def test_decoding_by_other_means_and_ids_of_the_dataset(tmp_path):
    seen = []

    def decode(semantic_ids):
        seen.append(semantic_ids)
        return [(torch.full((int((row >= 0).sum()) % 3,), 2), -float(row[0])) for row in semantic_ids]

    items = make_ids(5)
    dataset = Counting(items, ids=["e", "d", "c", "b", "a"])
    generator = SemanticToTextDatasetGenerator(
        make_model(), dataset=dataset, folder=tmp_path, batch_size=2, decode=decode, progress=False
    )
    generator()
    assert read(tmp_path) == {
        name: (item.tolist(), [2] * (len(item) % 3)) for name, item in zip(dataset.ids, items, strict=True)
    }
    assert GeneratedAudioTextDataset(tmp_path).column("score") == [-float(item[0]) for item in items]
    assert [len(batch) for batch in seen] == [2, 2, 1]


def test_items_without_units_are_left_out_and_counted(tmp_path):
    items = [*make_ids(2), torch.empty(0, dtype=torch.long)]
    generator = SemanticToTextDatasetGenerator(make_model(), dataset=items, folder=tmp_path, progress=False)
    with pytest.warns(UserWarning, match="1 items have no semantic ids"):
        assert generator(max_length=2)["empty"] == 1
    assert len(GeneratedAudioTextDataset(tmp_path)) == 2


def test_bad_input(tmp_path):
    model, items = make_model(), make_ids(2)

    def make(dataset, **options):
        return SemanticToTextDatasetGenerator(model, dataset=dataset, folder=tmp_path, progress=False, **options)

    for wrong, message in [
        (lambda: make([]), "dataset is empty"),
        (lambda: make(items, batch_size=0), "batch_size"),
        (lambda: make(items, text_pad_id=3), "text_pad_id 3 must be the model's"),
        (lambda: make(items)(source_mask=None), "source_mask cannot be passed"),
        (lambda: make(Counting(items, ids=["a", "a"]))(), "2 different strings, got 1"),
        (lambda: make([torch.randn(500)])(), "pass it wav2vec"),
        (lambda: make(items, decode=lambda ids: [])(), "a result for each of 1 rows, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            wrong()
    for row in (torch.zeros(2, 3), np.zeros((2, 3)), "text", None):
        with pytest.raises(TypeError, match=r"item '0' of the dataset must be a waveform"):
            make([row])()
    with pytest.raises(TypeError, match=r"item '0' of the dataset must be a waveform"):
        make([(items[0], items[1])])(overwrite=True)


def test_hash_tells_weights_apart():
    assert model_hash(make_model(0)) == model_hash(make_model(0)) != model_hash(make_model(1))


def test_items_that_can_not_be_read_or_tokenized_are_named_and_left_out(tmp_path):
    class Units:
        codebook_size, target_sample_hz, downsample_factor = 20, 8000, 80

        def __call__(self, wav, flatten=True):
            if bool(torch.isnan(wav).any()):
                raise RuntimeError("a clip holds NaN")
            return (wav[:, ::80].abs() * 19).long().clamp(0, 19)

    class Broken(Counting):
        def __getitem__(self, index):
            if index == 4:
                raise OSError("clip4.wav is cut off")
            return super().__getitem__(index)

    clips = [torch.rand(800 + 80 * index) for index in range(9)]
    clips[7] = torch.full((900,), float("nan"))
    dataset = Broken(clips, ids=[f"clip{index}" for index in range(9)])
    model = make_model(wav2vec=Units(), num_semantic_token_ids=None)
    for num_workers in (0, 2):
        folder = tmp_path / str(num_workers)
        generator = SemanticToTextDatasetGenerator(
            model, dataset=dataset, folder=folder, batch_size=3, num_workers=num_workers, progress=False
        )
        with pytest.warns(UserWarning, match="2 items could not be labelled.*'clip4' .*cut off.*'clip7' .*NaN"):
            assert generator(max_length=3) == {"written": 7, "skipped": 0, "empty": 0, "failed": 2}
        assert set(generator.problems) == {"clip4", "clip7"}
        assert list(read(folder)) == [f"clip{index}" for index in (0, 1, 2, 3, 5, 6, 8)]
    assert read(tmp_path / "0") == read(tmp_path / "2")
    dataset.items[7] = torch.rand(900)
    with pytest.warns(UserWarning, match="1 items could not"):
        assert generator(max_length=3) == {"written": 1, "skipped": 7, "empty": 0, "failed": 1}
    with pytest.raises(OSError, match="cut off"):
        SemanticToTextDatasetGenerator(
            model, dataset=dataset, folder=tmp_path / "strict", on_error="raise", progress=False
        )(max_length=3)


def test_draws_depend_on_the_item_and_the_seed_only(tmp_path):
    model, items = make_model(), make_ids(12)

    def run(name, order, batch_size, **options):
        dataset = Counting([items[i] for i in order], ids=[str(i) for i in order])
        generator = SemanticToTextDatasetGenerator(
            model, dataset=dataset, folder=tmp_path / name, batch_size=batch_size, progress=False
        )
        generator(max_length=8, beam_search_decode=False, filter_logits_fn=None, **options)
        return read(tmp_path / name)

    wanted = run("a", range(12), 4, seed=3)
    assert run("b", [7, 3, 11, 0], 1, seed=3) == {name: wanted[name] for name in ("7", "3", "11", "0")}
    assert run("c", range(12), 4, seed=4) != wanted


def test_two_writers_in_one_folder_are_refused(tmp_path):
    generator = SemanticToTextDatasetGenerator(make_model(), dataset=make_ids(3), folder=tmp_path, progress=False)
    with locked(tmp_path), pytest.raises(RuntimeError, match="written to by another process"):
        generator(max_length=3)
    assert generator(max_length=3)["written"] == 3


def test_other_hypotheses_go_to_a_folder_of_their_own(tmp_path):
    model, items = make_model(), make_ids(5)

    def run(**options):
        generator = SemanticToTextDatasetGenerator(
            model, dataset=items, folder=tmp_path / "best", n_best_folder=tmp_path / "others", progress=False
        )
        return generator(max_length=6, beam_size=4, **options)

    with pytest.raises(ValueError, match="n_best above 1 and n_best_folder go together"):
        run()
    assert run(n_best=3)["written"] == 5
    best, others = read(tmp_path / "best"), read(tmp_path / "others")
    assert list(others) == [f"{index}#{number}" for index in range(5) for number in (2, 3)]
    for index, item in enumerate(items):
        options = dict(source_type="speech", target_type="text", n_best=3, beam_size=4, max_length=6)
        found = model.generate_n_best(item[None], **options)[0]
        texts = [[i for i in one.ids.tolist() if i != model.eos_id["text"]] for one in found]
        assert [best[str(index)][1], others[f"{index}#2"][1], others[f"{index}#3"][1]] == texts
    for path in list_shards(tmp_path / "best"):  # as if the run had been cut off between the two folders
        path.unlink()
    assert run(n_best=3)["written"] == 5
    assert read(tmp_path / "best") == best and read(tmp_path / "others") == others


def test_items_may_be_arrays_and_lists_and_ids_an_array(tmp_path):
    model, items = make_model(), make_ids(6)
    SemanticToTextDatasetGenerator(model, dataset=items, folder=tmp_path / "tensors", progress=False)(max_length=4)
    for name, rows in (
        ("arrays", [row.numpy().astype(np.int16) for row in items]),
        ("lists", [row.tolist() for row in items]),
    ):
        dataset = Counting(rows, ids=torch.arange(6))
        SemanticToTextDatasetGenerator(model, dataset=dataset, folder=tmp_path / name, progress=False)(max_length=4)
        assert read(tmp_path / name) == read(tmp_path / "tensors")


def test_the_best_and_the_others_do_not_share_a_folder(tmp_path):
    generator = SemanticToTextDatasetGenerator(
        make_model(),
        dataset=make_ids(3),
        folder=tmp_path / "a",
        n_best_folder=tmp_path / "b" / ".." / "a",
        progress=False,
    )
    with pytest.raises(ValueError, match="n_best_folder must be another than folder"):
        generator(max_length=3, n_best=2)
    with pytest.raises(ValueError, match="generator cannot be passed on"):
        generator(max_length=3, n_best=2, generator=torch.Generator())


def test_overwriting_with_a_wrong_option_removes_nothing(tmp_path):
    generator = SemanticToTextDatasetGenerator(make_model(), dataset=make_ids(3), folder=tmp_path, progress=False)
    generator(max_length=3)
    for options in ({"temprature": 1.0}, {"max_length": 0}, {"beam_size": 0}):
        with pytest.raises((TypeError, ValueError)):
            generator(overwrite=True, **{"max_length": 3, **options})
        assert len(GeneratedAudioTextDataset(tmp_path)) == 3


def test_another_text_tokenizer_is_refused(tmp_path):
    def run(letters):
        model = make_model(tokenizer_encode=CharacterTokenizer(letters))
        return SemanticToTextDatasetGenerator(model, dataset=make_ids(3), folder=tmp_path, progress=False)(max_length=3)

    run("abc ")
    with pytest.raises(ValueError, match="option text_tokenizer is"):
        run("xyz ")


@pytest.mark.parametrize("decode", [None, lambda ids: [(torch.tensor([2]), 0.0)] * len(ids)], ids=["model", "decode"])
def test_wrong_options_make_no_folder(tmp_path, decode):
    model = make_model()
    generator = SemanticToTextDatasetGenerator(
        model, dataset=make_ids(2), folder=tmp_path / "pairs", decode=decode, progress=False
    )
    for options, error, message in [
        ({"foo": 3}, TypeError, "the generator has no argument 'foo'"),
        ({"spec_decode": True, "beam_search_decode": False}, TypeError, "has no argument 'spec_decode'"),
        ({"filter_logits_fn": "top_p"}, TypeError, "filter_logits_fn must be a function or None, got 'top_p'"),
        ({"cond_scale": 2.0}, ValueError, "cond_scale 2.0 needs a model"),
        ({"beam_size": 10_000}, ValueError, "beam_size must be"),
        ({"max_length": 0}, ValueError, "max_length"),
    ]:
        with pytest.raises(error, match=message):
            generator(**options)
        assert list(tmp_path.iterdir()) == []


def failing(place):
    """A model and options that raise an error for the item "bad", in one of the parts that work on it."""
    options, calls = {}, {"max_length": 4}
    model = make_model()
    if place == "text tokenizer":

        class Tokenizer(CharacterTokenizer):
            def decode(self, ids):
                if ids.flatten().tolist() == texts[0]:
                    raise KeyError("no such letter")
                return super().decode(ids)

        model, texts = make_model(tokenizer_encode=Tokenizer("abc ")), []
        options["decode"] = lambda ids: [(torch.tensor([1 + int(row[0] == 19)]), 0.0) for row in ids]
        texts.append([2])
    elif place == "decode":

        def decode(ids):
            if bool((ids[:, 0] == 19).any()):
                raise RuntimeError("no memory for this one")
            return [(torch.tensor([1]), 0.0)] * len(ids)

        options["decode"] = decode
    elif place == "result of decode":
        options["decode"] = lambda ids: [(torch.tensor([1]), "x" if int(row[0]) == 19 else 0.0) for row in ids]
    elif place == "ids of decode":
        options["decode"] = lambda ids: [(torch.tensor([99 if int(row[0]) == 19 else 1]), 0.0) for row in ids]
    elif place == "model":
        generate = model.encode_ids

        def encode_ids(ids, *arguments, **keywords):
            if bool((ids[:, 0] == 19).any()):
                raise FloatingPointError("overflow in the encoder")
            return generate(ids, *arguments, **keywords)

        model.encode_ids = encode_ids
    return model, options, calls


PLACES = ["text tokenizer", "decode", "result of decode", "ids of decode", "model", "name"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("on_error", ["skip", "raise"])
def test_an_item_that_fails_anywhere_is_left_out_alone(tmp_path, place, on_error):
    items = [torch.tensor([number, 3, 5]) for number in range(12)]
    items[7] = torch.tensor([19, 3, 5])
    bad = "caf\udce9" if place == "name" else "bad"
    names = [bad if number == 7 else f"u{number}" for number in range(12)]
    model, options, calls = failing(place)
    generator = SemanticToTextDatasetGenerator(
        model, dataset=Counting(items, ids=names), folder=tmp_path, progress=False, on_error=on_error, **options
    )
    if on_error == "raise":
        with pytest.raises((ValueError, KeyError, RuntimeError, FloatingPointError, TypeError)):
            generator(**calls)
    else:
        with pytest.warns(UserWarning, match="1 items could not be labelled"):
            assert generator(**calls) == {"written": 11, "skipped": 0, "empty": 0, "failed": 1}
        assert list(generator.problems) == [bad]
        with pytest.warns(UserWarning, match="1 items could not be labelled"):
            assert generator(**calls) == {"written": 0, "skipped": 11, "empty": 0, "failed": 1}
    assert GeneratedAudioTextDataset(tmp_path).ids == [name for name in names if name != bad]  # the others are on disk


def test_a_relative_folder_stays_where_it_was(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    generator = SemanticToTextDatasetGenerator(
        make_model(), dataset=make_ids(3), folder="pairs", n_best_folder="others", progress=False
    )
    monkeypatch.chdir(tmp_path / "elsewhere")
    generator(max_length=3, n_best=2)
    assert (
        len(GeneratedAudioTextDataset(tmp_path / "pairs")) == len(GeneratedAudioTextDataset(tmp_path / "others")) == 3
    )
    assert list((tmp_path / "elsewhere").iterdir()) == []
