"""Wrong words about data sets and splits: each is refused in one sentence before anything starts."""

from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["dataset=cifar10", "dataset.cutout=0"],
            "dataset.cutout=0 is not possible: choose a whole number from 1 to 32",
        ),
        (["dataset=cifar10", "dataset.cutout=33"], "dataset.cutout=33 is not possible: choose a whole number from 1"),
        (["dataset=cifar10", "dataset.cutout=1.5"], "dataset.cutout=1.5 is not possible: choose a whole number or"),
        (["dataset=fashion_mnist", "dataset.cutout=8"], "dataset.cutout=8 is not used with dataset.augment=false:"),
        (["dataset=devices"], "dataset=devices is images that real devices hold: run it with flwr run"),
        (["dataset=devices", "dataset.classes=1"], "dataset.classes=1 is not possible: choose a whole number of at"),
        (["dataset=devices", "dataset.channels=2"], "dataset.channels=2 is not possible: choose 1 or 3."),
        (["split.clients_per_domain=0"], "split.clients_per_domain=0 is not possible: choose a whole number"),
        ([f"split.clients_per_domain={10**20}"], f"split.clients_per_domain={10**20} is not possible: choose a whole"),
        (["dataset.image_size=200000"], "dataset.image_size=200000 is not possible: 2100 images of it are 2.52e+05 GB"),
        (["dataset.image_size=100000000"], "dataset.image_size=100000000 is not possible: 2100 images of it are"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words_are_refused_in_a_sentence(refusal: Callable[..., str], words: list[str], sentence: str) -> None:
    assert refusal(*words).startswith(sentence)
