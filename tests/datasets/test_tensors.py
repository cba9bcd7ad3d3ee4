"""A user's own arrays."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.source import Part, Source
from fedsim.core.errors import UserError

Load = Callable[..., Source]
PROGRAM = """
import numpy as np
rng = np.random.default_rng(0)
train, test = rng.integers(256, size=(12, 6, 8, 3), dtype=np.uint8), rng.integers(256, size=(6, 6, 8), dtype=np.uint8)
labels = np.arange(12) % 3

def plain():
    return {"train_images": train, "train_labels": labels, "test_images": test, "test_labels": labels[:6]}

def two_domains():
    return {**plain(), "train_domains": ["b", "a"] * 6, "test_domains": ["a"] * 3 + ["b"] * 3}

def numbers():
    return {**plain(), "train_domains": np.arange(12) % 2, "test_domains": np.arange(6) % 2}

def one_half():
    return {**plain(), "train_domains": ["a"] * 12}

def swapped():
    return {**plain(), "train_domains": ["a"] * 6, "test_domains": ["b"] * 12}

def ragged():
    return {**plain(), "train_images": [np.zeros((3, 3)), np.zeros((4, 4))]}

def nothing():
    return None

def lacking():
    return {"train_images": train}

def broken():
    raise ZeroDivisionError("my own mistake")
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "mine.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("mine", None)


def test_arrays_are_a_source_of_one_domain(load: Load) -> None:
    source = load("dataset=tensors", "dataset.function=mine.plain", "split=iid", "split.num_clients=3")
    module: Any = sys.modules["mine"]
    assert source.domain_names == ("tensors",)
    assert source.image_shape == (3, 8, 8)  # squares of the longer side
    assert source.class_names == ("0", "1", "2")
    assert source.labels.tolist() == [*module.labels, *module.labels[:6]]
    assert [len(source.indices(0, part)) for part in (Part.TRAIN, Part.TEST)] == [12, 6]
    assert np.array_equal(source.images[12, 0], source.images[12, 2])


def test_arrays_may_say_their_domains(load: Load) -> None:
    source = load("dataset=tensors", "dataset.function=mine.two_domains", "dataset.image_size=4")
    assert source.domain_names == ("a", "b")
    assert source.domains.tolist() == [1, 0] * 6 + [0] * 3 + [1] * 3
    assert source.image_shape == (3, 4, 4)
    assert load("dataset=tensors", "dataset.function=mine.numbers").domain_names == ("0", "1")


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        ("mine.one_half", r"dataset\.function=mine\.one_half holds test_domains of \(0,\): they must be \(6,\)"),
        ("mine.swapped", r"dataset\.function=mine\.swapped holds train_domains of \(6,\): they must be \(12,\)"),
        ("mine.ragged", r"dataset\.function=mine\.ragged cannot be read \("),
        ("mine.nothing", r"dataset\.function=mine\.nothing returned NoneType: it must return a dictionary"),
        ("mine.lacking", r"dataset\.function=mine\.lacking holds no train_labels: it needs train_images, "),
        ("mine.broken", r"dataset\.function=mine\.broken cannot be read \(my own mistake\)"),
        ("mine.absent", r"dataset\.function=mine\.absent cannot be imported"),
        ("nowhere.at_all", r"dataset\.function=nowhere\.at_all cannot be imported"),
        ("null", r"dataset\.function=null is not possible: choose the dotted name of a function that"),
    ],
)
def test_what_is_no_function_of_arrays_is_refused(function: str, sentence: str, load: Load) -> None:
    with pytest.raises(UserError, match=f"^{sentence}"):
        load("dataset=tensors", f"dataset.function={function}")


@pytest.mark.parametrize("size", [0, -3])
def test_an_image_size_of_nothing_is_refused(size: int, load: Load) -> None:
    with pytest.raises(UserError, match=rf"^dataset\.image_size={size} is not possible: choose a whole number of at"):
        load("dataset=tensors", "dataset.function=mine.plain", f"dataset.image_size={size}")
