"""The real sets of ``../shared/data``, with the numbers that are published for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.build import build_federation
from datasets.source import Part, Source
from fedsim.config.composition import compose
from fedsim.config.settings import Settings

Load = Callable[..., Source]
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not SHARED.is_dir(), reason="the real images of ../shared/data are not there"),
]


def sizes(source: Source, part: Part) -> list[int]:
    return [len(source.indices(domain, part)) for domain in range(len(source.domain_names))]


def test_digits_have_fedbns_743_training_images(load: Load) -> None:
    source = load("dataset=digits5", f"data_dir={SHARED}/digits", "dataset.domains=[mnist,svhn,usps,mnist_m,fonts]")
    assert sizes(source, Part.TRAIN) == [743, 742, 743, 743, 743]  # svhn.npz has one less
    assert sizes(source, Part.TEST) == [2000, 341, 1860, 2000, 2000]


def test_mnist_prepared_from_its_original_files_is_fedbns(tmp_path: Path, load: Load, write: Any) -> None:
    """``mnist.npz`` was made by FedBN's rule: the same images must come out of the files of 1998."""
    for packed in (SHARED / "MNIST_idx").glob("*.gz"):
        write.unpack_gz(packed, tmp_path / "MNIST" / "raw" / packed.stem)
    source = load("dataset=digits5", f"data_dir={tmp_path}", "dataset.domains=[mnist]")
    assert sizes(source, Part.TRAIN) == [743]
    assert sizes(source, Part.TEST) == [14000]
    with np.load(SHARED / "digits" / "mnist.npz") as known:
        for part, half, count in ((Part.TRAIN, "train", 743), (Part.TEST, "test", 2000)):
            rows = source.indices(0, part)[:count]
            assert np.array_equal(source.images[rows, 0], known[f"{half}_images"][:count])
            assert np.array_equal(source.labels[rows], known[f"{half}_labels"][:count])


def test_office_caltech_has_fedbns_sizes(load: Load) -> None:
    source = load("dataset=office_caltech10", f"data_dir={SHARED}", "dataset.image_size=16")
    assert sizes(source, Part.TRAIN) == [62] * 4
    assert sizes(source, Part.VALIDATION) == [50] * 4
    assert sizes(source, Part.TEST) == [192, 225, 32, 59]


@pytest.mark.parametrize(("factor", "total"), [(0.01, 12406), (0.02, 13996), (0.1, 20431)])
def test_cifar10_lt_has_as_many_images_as_published(factor: float, total: int) -> None:
    words = ["dataset=cifar10", f"data_dir={SHARED}/cifar10", "dataset.npz=cifar10_lt10.npz"]
    split = ["split=[longtail,dirichlet]", f"split.imbalance_factor={factor}", "split.num_clients=40"]
    federation = build_federation(Settings.from_config(compose([*words, *split])))
    counts = federation.label_counts()
    assert counts.shape == (40, 10)
    assert counts.sum() == total
    assert counts.sum(axis=0).tolist() == [int(5000 * factor ** (label / 9)) for label in range(10)]
