"""Checks of single arguments: what counts as a number, names and values in errors, attributes that stay."""

import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import small
import torch

from spear_tts_pytorch import EncoderKmeans, MelKmeans, TextToSemantic, UniqueConsecutive
from spear_tts_pytorch.data.corpora.layouts import read_ljspeech
from spear_tts_pytorch.data.corpora.readers import (
    read_common_voice,
    read_folder,
    read_librispeech,
    read_libritts,
    read_vctk,
)
from spear_tts_pytorch.data.pairs.shards import list_shards, read_metadata
from spear_tts_pytorch.recipe.settings import Settings
from spear_tts_pytorch.tokenizers.semantic import load_semantic_tokenizer
from spear_tts_pytorch.utils.values import (
    Fixed,
    absolute_path,
    as_tensor,
    instance,
    listed,
    number_of_items,
    one_of,
    place,
    real_number,
    shown,
    switch,
    whole_number,
)

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("three", [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3)])
def test_numbers_of_numpy_and_torch_are_numbers(three):
    for number in (whole_number("n", three, 1, 3), real_number("x", three, above=2.5)):
        assert number == 3 and type(number) in (int, float)


def test_floats_and_switches_of_numpy_and_torch():
    for half in (0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5)):
        assert real_number("x", half, 0, below=1) == 0.5
    for yes in (True, np.bool_(True), torch.tensor(True)):
        assert switch("s", yes) is True


@pytest.mark.parametrize("value", ["3", None, True, np.bool_(True), 2.5, [3], np.array([3]), torch.tensor([3]), 3j])
def test_other_kinds_are_refused_by_name_and_value(value):
    with pytest.raises(TypeError, match="^n must be a whole number at least 1, got ") as found:
        whole_number("n", value, 1)
    assert str(found.value).endswith(f"got {shown(value)}")
    if value != 2.5:
        with pytest.raises(TypeError, match="^x must be a number above 0 or None, got "):
            real_number("x", value, above=0, also=" or None")
    if not isinstance(value, (bool, np.bool_)):
        with pytest.raises(TypeError, match="^s must be True or False, got "):
            switch("s", value)


def test_ranges():
    for value in (0, -(10**30)):
        with pytest.raises(ValueError, match=f"^n must be at least 1, got {value}$"):
            whole_number("n", value, 1, 2**63)
    with pytest.raises(
        ValueError, match="^n must be at least 1 and at most 9,223,372,036,854,775,808, got 10000000000"
    ):
        whole_number("n", 10**30, 1, 2**63)
    for value in (NAN, INF, -INF, 10**400):
        with pytest.raises(ValueError, match="^x must be a finite number at least 0 and below 1, got "):
            real_number("x", value, 0, below=1)
    with pytest.raises(ValueError, match="^x must be at least 0 and below 1, got 1.0$"):
        real_number("x", 1.0, 0, below=1)
    assert (real_number("x", 1, 0, 1), whole_number("n", -5)) == (1.0, -5)


def test_words_objects_and_datasets():
    assert one_of("kind", "a", ("a", "b")) == "a"
    for value in ("c", None, 3, ["a"], np.array(["a"])):
        with pytest.raises(ValueError, match="^kind must be one of a, b, got "):
            one_of("kind", value, ("a", "b"))
    assert instance("model", 3, int) == 3
    with pytest.raises(TypeError, match="^model must be a Module, got 'x'$"):
        instance("model", "x", torch.nn.Module)
    assert number_of_items("d", [1, 2]) == number_of_items("d", torch.zeros(2, 3)) == 2
    for value in ("ab", b"ab", {0: 1}, iter([1]), 3, None, torch.tensor(3), {1, 2}):
        with pytest.raises(TypeError, match="^d must be a dataset with a length and numbered items, such as a list"):
            number_of_items("d", value)


def test_paths_do_not_depend_on_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = absolute_path("folder", "x")
    assert path == tmp_path / "x" == absolute_path("folder", Path("x"))
    os.chdir("/")
    assert path == tmp_path / "x"
    for value in (3, None, b"x", ["x"], True):
        with pytest.raises(TypeError, match="^folder must be a path, got "):
            absolute_path("folder", value)
    with pytest.raises(ValueError, match="^folder must be a path, got .*: leave out the zero character"):
        absolute_path("folder", "a\0b")


def test_long_values_are_cut():
    assert len(shown("x" * 1000)) == 100 and shown("a\nb") == r"'a\nb'"


def test_fixed_attributes_are_assigned_once():
    class Holder(torch.nn.Module):
        share = Fixed[float]()

    holder = Holder()
    with pytest.raises(AttributeError):
        holder.share  # noqa: B018 (reading is the test)
    holder.share = 0.5
    with pytest.raises(AttributeError, match=r"share of a Holder cannot be changed: make another with share=0\.7"):
        holder.share = 0.7
    assert holder.share == 0.5 and isinstance(Holder.share, Fixed)


@pytest.mark.parametrize(
    "column",
    [
        pd.Series(["a", "b"], index=[7, 3]),
        pd.Series(["a", "b"], dtype="string"),
        pd.Series(["a", "b"], dtype="category"),
        pd.Index(["a", "b"]),
        pl.Series(["a", "b"]),
        pa.array(["a", "b"]),
        np.array(["a", "b"]),
        np.array(["a", "b"], dtype=object),
        {"a": 0, "b": 0}.values(),
    ],
    ids=lambda column: type(column).__name__,
)
def test_columns_of_texts_are_lists(column):
    found = listed("source", column)
    assert type(found) is list and len(found) == 2 and (found == ["a", "b"] or found == [0, 0])


@pytest.mark.parametrize(
    "table", [pd.DataFrame({"text": ["a"]}), pl.DataFrame({"text": ["a"]}), {"text": ["a"]}, {"a"}]
)
def test_tables_dictionaries_and_sets_are_no_columns(table):
    with pytest.raises(TypeError, match="source must be a list, got a "):
        listed("source", table)


@pytest.mark.parametrize("kind", ["reversed", "big endian", "read-only", "strided"])
def test_arrays_that_torch_cannot_share_are_copied(kind):
    plain = np.arange(6, dtype=np.float32)
    read_only = plain.copy()
    read_only.setflags(write=False)
    array = {"reversed": plain[::-1], "big endian": plain.astype(">f4"), "read-only": read_only, "strided": plain[::2]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert as_tensor(array[kind]).tolist() == array[kind].tolist()
    assert as_tensor(plain).data_ptr() == plain.ctypes.data  # others are shared


def test_indices_of_items():
    assert [place(index, 3) for index in (0, np.int64(2), torch.tensor(1), -1)] == [0, 2, 1, 2]
    for index in (3, -4, 10**30):
        with pytest.raises(IndexError, match="index .* is out of range for 3 items"):
            place(index, 3)
    for index in (slice(0, 2), "0", True, None, 1.0, [0, 1]):
        with pytest.raises(
            TypeError, match="index must be a whole number .torch.utils.data.Subset takes several.* got"
        ):
            place(index, 3)


def test_what_is_no_path_is_refused_by_its_name():
    tokenizers = (MelKmeans.load, EncoderKmeans.load, UniqueConsecutive.load, load_semantic_tokenizer)
    readers = (read_folder, read_librispeech, read_libritts, read_common_voice, read_vctk, read_ljspeech)
    models = (small.make_model().load, small.make_model().save_pretrained, TextToSemantic.from_pretrained)
    for call in (Settings.load, Settings().save, *tokenizers, *readers, *models, list_shards, read_metadata):
        for wrong in (None, 5, b"x"):
            with pytest.raises(TypeError, match="(path|folder|save_directory) must be a path( or a Hub id)?, got"):
                call(wrong)
