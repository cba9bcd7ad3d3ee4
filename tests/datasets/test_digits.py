"""The embedded federation: real digits, no image twice, always the same."""

import hashlib

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.transforms import functional as TF

from datasets import digits
from datasets.source import Part
from fedsim.core.errors import UserError


@pytest.fixture(scope="module")
def source() -> digits.Source:
    return digits.load()


def test_shapes_and_names(source: digits.Source) -> None:
    assert source.images.shape == (6 * 350, 3, 28, 28)
    assert source.images.dtype == np.uint8
    assert source.domain_names == ("plain", "inverted", "faded", "texture", "street", "font")


def test_every_domain_holds_every_class_about_equally_often(source: digits.Source) -> None:
    for domain in range(6):
        for part, per_class in ((Part.TRAIN, 24), (Part.TEST, 11)):
            indices = source.indices(domain, part)
            assert len(indices) == 10 * per_class
            counts = np.bincount(source.labels[indices], minlength=10)
            assert np.abs(counts - per_class).max() <= 1


def test_it_is_the_same_every_time(source: digits.Source) -> None:
    again = digits.load.__wrapped__() if hasattr(digits.load, "__wrapped__") else digits.load()
    assert np.array_equal(source.images, again.images)
    assert np.array_equal(source.labels, again.labels)


def test_no_handwritten_digit_is_dealt_twice() -> None:
    dealt = digits._deal_handwritten(5, 350)
    seen = [hashlib.sha256(image.tobytes()).hexdigest() for images, _ in dealt for image in images]
    of_the_set = [hashlib.sha256((image / 16.0).tobytes()).hexdigest() for image in load_digits().images]
    # Compared with how often each picture is in the original, should two people have written the same pixels.
    for digest in set(seen):
        assert seen.count(digest) <= of_the_set.count(digest)
    assert len(seen) == 5 * 350


def test_labels_belong_to_the_images() -> None:
    images, labels = load_digits().images / 16.0, load_digits().target
    label_of = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    for strokes, dealt in digits._deal_handwritten(5, 350):
        assert [label_of[stroke.tobytes()] for stroke in strokes] == dealt.tolist()


def test_no_picture_is_both_trained_and_tested_on(source: digits.Source) -> None:
    train = {image.tobytes() for image in source.images[source.parts == Part.TRAIN]}
    assert not [image for image in source.images[source.parts == Part.TEST] if image.tobytes() in train]


def test_domains_look_as_their_names_say(source: digits.Source) -> None:
    mean = {name: source.images[source.domains == number].mean() for number, name in enumerate(source.domain_names)}
    contrast = {
        name: source.images[source.domains == number].std(axis=(1, 2, 3)).mean()
        for number, name in enumerate(source.domain_names)
    }
    colourful = {
        name: np.ptp(source.images[source.domains == number], axis=1).mean() > 10
        for number, name in enumerate(source.domain_names)
    }
    assert mean["plain"] < 80 < 180 < mean["inverted"]
    assert contrast["faded"] < 25 < 60 < contrast["plain"]
    assert [name for name, colour in colourful.items() if colour] == ["texture", "street"]


def test_too_many_images_are_refused() -> None:
    with pytest.raises(UserError, match="choose at most 355"):
        digits.load(300, 100)


def test_they_are_resized_from_what_is_drawn(source: digits.Source) -> None:
    large = digits.load(240, 110, 64)
    assert large.images.shape == (6 * 350, 3, 64, 64)
    for row in range(0, len(large.images), 150):
        drawn = Image.fromarray(source.images[row].transpose(1, 2, 0))
        expected = np.asarray(TF.resize(drawn, [64, 64])).transpose(2, 0, 1)
        assert np.array_equal(large.images[row], expected)
    assert np.array_equal(large.labels, source.labels)
    assert np.array_equal(large.parts, source.parts)


def test_a_size_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match=r"^dataset\.image_size=0 is not possible"):
        digits.load(image_size=0)
