"""CIFAR, Fashion-MNIST and FEMNIST in each of their forms."""

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image

from datasets import cifar100
from datasets.source import Part, Source
from datasets.transforms import Cutout, HorizontalFlip, RandomCrop, Transform
from fedsim.core.errors import UserError

Load, Pictures = Callable[..., Source], Callable[..., tuple[np.ndarray, np.ndarray]]


def halves(source: Source) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pictures with the channels last, and labels, of training and test."""
    rows = [source.indices(0, part) for part in (Part.TRAIN, Part.TEST)]
    return [(source.images[each].transpose(0, 2, 3, 1), source.labels[each]) for each in rows]


def same(source: Source, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> bool:
    return all(
        np.array_equal(read[0], made[0]) and np.array_equal(read[1], made[1])
        for read, made in zip(halves(source), (train, test), strict=True)
    )


def write_parquet(
    path: Path, images: np.ndarray, label: str, labels: np.ndarray, image: str = "img", **more: Any
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = []
    for picture in images:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG")
        cells.append({"bytes": buffer.getvalue(), "path": None})
    pd.DataFrame({image: cells, label: labels, **more}).to_parquet(path)


def test_cifar10_from_torchvisions_batches(
    tmp_path: Path, load: Load, pictures: Pictures, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda path, md5: True)
    train, test = pictures(50, 32, 32, 3), pictures(20, 32, 32, 3, seed=1)
    write.write_cifar(tmp_path, train, test)
    source = load("dataset=cifar10", f"data_dir={tmp_path}", "split=iid")
    assert same(source, train, test)
    assert source.class_names[:2] == ("airplane", "automobile")
    pixels = source.transform(torch.from_numpy(source.images[:1]), None)
    expected = (source.images[:1] / 255 - np.reshape([0.4914, 0.4822, 0.4465], (3, 1, 1))) / np.reshape(
        [0.2470, 0.2435, 0.2616], (3, 1, 1)
    )
    np.testing.assert_allclose(pixels.numpy(), expected, atol=1e-5)
    assert len(source.transform.augmentations) == 2
    plain = load(
        "dataset=cifar10", f"data_dir={tmp_path}", "dataset.augment=false", "dataset.mean=[0.5]", "dataset.std=[1]"
    )
    assert plain.transform.augmentations == ()
    assert plain.transform.mean == (0.5,)


def test_cutout_comes_last_and_only_where_it_is_asked_for(
    tmp_path: Path, load: Load, pictures: Pictures, write: Any
) -> None:
    write.write_npz(tmp_path / "cifar10.npz", pictures(50, 32, 32, 3), pictures(20, 32, 32, 3, seed=1))
    plain, cut = (load("dataset=cifar10", f"data_dir={tmp_path}", *words) for words in ([], ["dataset.cutout=32"]))
    assert plain.transform == Transform(cut.transform.mean, cut.transform.std, (RandomCrop(4), HorizontalFlip()))
    assert cut.transform == replace(plain.transform, on_normalized=(Cutout(32),))
    pixels = torch.from_numpy(plain.images[:4])
    without, with_hole = (source.transform(pixels, torch.Generator().manual_seed(0)) for source in (plain, cut))
    hole = with_hole == 0  # exactly zero, which no pixel of CIFAR-10 is by its own
    assert hole.flatten(1).any(dim=1).all()
    assert torch.equal(with_hole, without.masked_fill(hole, 0))
    assert torch.equal(cut.transform(pixels, None), plain.transform(pixels, None))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["dataset.cutout=0"], "dataset.cutout=0 is not possible: choose a whole number from 1 to 32, or null."),
        (["dataset.cutout=-3"], "dataset.cutout=-3 is not possible: choose a whole number from 1 to 32, or null."),
        (
            ["dataset.cutout=9", "dataset.image_size=8"],
            "dataset.cutout=9 is not possible: choose a whole number from 1 to 8, or null.",
        ),
        (["dataset.cutout=true"], "dataset.cutout=True is not possible: choose a whole number or null."),
        (
            ["dataset.cutout=8", "dataset.augment=false"],
            "dataset.cutout=8 is not used with dataset.augment=false: choose dataset.augment=true, or "
            "dataset.cutout=null.",
        ),
        (
            ["dataset.cutout=8", "dataset.image_size=0"],
            "dataset.image_size=0 is not possible: choose a whole number of at least 1.",
        ),
    ],
)
def test_a_cutout_that_does_not_fit_is_refused(words: list[str], sentence: str, load: Load) -> None:
    for name in ("cifar10", "cifar100"):
        with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
            load(f"dataset={name}", *words)


def test_torchvisions_files_are_checked(tmp_path: Path, load: Load, pictures: Pictures, write: Any) -> None:
    """Files other than the published ones are not unpickled."""
    write.write_cifar(tmp_path, pictures(50, 32, 32, 3), pictures(20, 32, 32, 3))
    with pytest.raises(UserError, match=r"^CIFAR10 in .* cannot be read \(Dataset not found or corrupted"):
        load("dataset=cifar10", f"data_dir={tmp_path}")


def test_an_npz_comes_before_torchvisions_files_and_parquet_before_both(
    tmp_path: Path, load: Load, pictures: Pictures, write: Any
) -> None:
    train, test = pictures(50, 32, 32, 3), pictures(20, 32, 32, 3, seed=1)
    write.write_cifar(tmp_path, pictures(50, 32, 32, 3, seed=2), test)
    write.write_npz(tmp_path / "cifar10.npz", train, test)
    assert same(load("dataset=cifar10", f"data_dir={tmp_path}"), train, test)
    other = pictures(30, 32, 32, 3, seed=3)
    write_parquet(tmp_path / "plain_text" / "train-00000-of-00002.parquet", other[0][:20], "label", other[1][:20])
    write_parquet(tmp_path / "plain_text" / "train-00001-of-00002.parquet", other[0][20:], "label", other[1][20:])
    write_parquet(tmp_path / "plain_text" / "test-00000-of-00001.parquet", test[0], "label", test[1])
    for words in ([f"data_dir={tmp_path}"], []):
        assert same(load("dataset=cifar10", f"dataset.parquet={tmp_path}", *words), other, test)


def test_an_npz_may_have_another_name(tmp_path: Path, load: Load, pictures: Pictures, write: Any) -> None:
    train, test = pictures(50, 32, 32, 3), pictures(20, 32, 32, 3, seed=1)
    write.write_npz(tmp_path / "cut.npz", train, test)
    assert same(load("dataset=cifar10", f"data_dir={tmp_path}", "dataset.npz=cut.npz"), train, test)
    with pytest.raises(UserError, match=r"^cifar10 is not there: looked for .*cifar10\.npz, or .*data_batch_1 and "):
        load("dataset=cifar10", f"data_dir={tmp_path}")


def test_cifar100_has_its_fine_classes(tmp_path: Path, load: Load, pictures: Pictures) -> None:
    assert len(set(cifar100.CLASSES)) == 100
    assert list(cifar100.CLASSES) == sorted(cifar100.CLASSES)
    train, test = pictures(200, 8, 8, 3, classes=100), pictures(100, 8, 8, 3, classes=100, seed=1)
    for name, (images, labels) in (("train", train), ("test", test)):
        write_parquet(tmp_path / f"{name}.parquet", images, "fine_label", labels, coarse_label=labels // 5)
    source = load("dataset=cifar100", f"dataset.parquet={tmp_path}", "dataset.image_size=8")
    assert same(source, train, test)
    assert source.num_classes == 100


def test_fashion_mnist_has_three_equal_channels(tmp_path: Path, load: Load, pictures: Pictures, write: Any) -> None:
    train, test = pictures(50, 28, 28), pictures(20, 28, 28, seed=1)
    write.write_mnist(tmp_path / "FashionMNIST" / "raw", train, test)
    source = load("dataset=fashion_mnist", f"data_dir={tmp_path}")
    assert same(
        source, (np.repeat(train[0][..., None], 3, 3), train[1]), (np.repeat(test[0][..., None], 3, 3), test[1])
    )
    assert source.class_names[-1] == "ankle_boot"
    write_parquet(tmp_path / "pq" / "train.parquet", train[0], "label", train[1], image="image")
    write_parquet(tmp_path / "pq" / "test.parquet", test[0], "label", test[1], image="image")
    assert np.array_equal(load("dataset=fashion_mnist", f"dataset.parquet={tmp_path / 'pq'}").images, source.images)


def test_femnist_knows_who_wrote_what(tmp_path: Path, load: Load, pictures: Pictures) -> None:
    images, labels = pictures(300, 28, 28, classes=62)
    writers = np.random.default_rng(0).choice(["f2_7", "f0_1", "f1_3"], 300, p=[0.5, 0.3, 0.2])
    for number, rows in enumerate((slice(0, 180), slice(180, 300))):
        path = tmp_path / f"train-{number}.parquet"
        write_parquet(path, images[rows], "character", labels[rows], image="image", writer_id=writers[rows], hsf_id=1)
    source = load("dataset=femnist", f"data_dir={tmp_path}", "split=naturalid", "split.test=natural")
    assert source.num_classes == 62
    assert source.class_names[10] == "A"
    assert np.array_equal(source.images[:, 0], images)
    assert source.labels.tolist() == labels.tolist()
    assert source.writers is not None
    assert [sorted(set(writers))[each] for each in source.writers] == writers.tolist()
    for writer in range(3):
        mine = source.parts[source.writers == writer]
        assert (mine == Part.TEST).sum() == int(0.1 * len(mine))
        assert set(mine) == {Part.TRAIN, Part.TEST}
    first = source.parts[:100]
    assert (first == Part.TEST).any()  # drawn at random and not the last


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        ("label", r"holds img, number: it needs img or image, and label"),
        ("image", r"holds picture, label: it needs img or image, and label"),
        ("cut", r"train\.parquet cannot be read \("),
        ("picture", r"image 1 of .*train\.parquet cannot be read \(it is no image that Pillow knows\)\.$"),
        ("null", r"image 1 of .*train\.parquet cannot be read \("),
        ("range", r"train\.parquet holds the label 11: allowed are 0 to 9"),
        ("text", r"train\.parquet holds label of (object|str.*): they must be whole numbers"),
        ("float", r"train\.parquet holds label of float64: they must be whole numbers"),
        ("unlabelled", r"train\.parquet holds a row without label: every image needs one"),
        ("test", r"dataset\.parquet=.* is not possible: looked there for test\*\.parquet"),
    ],
)
def test_damaged_parquet_is_named(harm: str, sentence: str, tmp_path: Path, load: Load, pictures: Pictures) -> None:
    images, labels = pictures(20, 8, 8, 3)
    path = tmp_path / "train.parquet"
    write_parquet(path, images, "label", labels + (2 if harm == "range" else 0))
    if harm != "test":
        write_parquet(tmp_path / "test.parquet", images, "label", labels)
    frame = pd.read_parquet(path)
    if harm in ("label", "image"):
        frame.rename(columns={"label": "number"} if harm == "label" else {"img": "picture"}).to_parquet(path)
    elif harm in ("text", "float"):
        frame.astype({"label": {"text": str, "float": float}[harm]}).to_parquet(path)
    elif harm == "unlabelled":
        frame.assign(label=frame["label"].astype("Int64").where(frame.index != 4)).to_parquet(path)
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    elif harm in ("picture", "null"):
        frame.at[1, "img"] = {"bytes": b"no picture" if harm == "picture" else None, "path": None}
        frame.to_parquet(path)
    with pytest.raises(UserError, match=sentence) as raised:
        load("dataset=cifar10", f"dataset.parquet={tmp_path}", "dataset.image_size=8")
    assert "\n" not in str(raised.value)


def test_a_damaged_image_is_counted_in_its_own_file(tmp_path: Path, load: Load, pictures: Pictures) -> None:
    images, labels = pictures(20, 8, 8, 3)
    for name in ("train-0", "train-1", "test"):
        write_parquet(tmp_path / f"{name}.parquet", images, "label", labels)
    frame = pd.read_parquet(tmp_path / "train-1.parquet")
    frame.at[0, "img"] = {"bytes": b"no picture", "path": None}
    frame.to_parquet(tmp_path / "train-1.parquet")
    with pytest.raises(UserError, match=r"^image 0 of [^ ]*train-1\.parquet cannot be read \("):
        load("dataset=cifar10", f"dataset.parquet={tmp_path}", "dataset.image_size=8")


def test_femnist_without_files_or_writers_is_refused(tmp_path: Path, load: Load, pictures: Pictures) -> None:
    with pytest.raises(UserError, match=r"^femnist is not there: looked for \*\.parquet in "):
        load("dataset=femnist", f"data_dir={tmp_path}")
    file, images, labels = tmp_path / "a.parquet", pictures(5, 8, 8)[0], np.arange(5)
    write_parquet(file, images, "character", labels, image="image")
    with pytest.raises(UserError, match=r"a\.parquet holds image, character: .* and character, writer_id\.$"):
        load("dataset=femnist", f"data_dir={tmp_path}")
    write_parquet(file, images, "character", labels, image="image", writer_id=["a", "a", None, "b", "b"])
    with pytest.raises(UserError, match=r"a\.parquet holds a row without writer_id: every image needs one\.$"):
        load("dataset=femnist", f"data_dir={tmp_path}")
