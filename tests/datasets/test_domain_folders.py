"""Sets of image files: folders and FedBN's lists, how they are split, and what is missing or damaged."""

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import StratifiedShuffleSplit
from torchvision.transforms import functional as TF

from datasets import office_caltech10, office_home
from datasets.readers.domain_folders import find_domain
from datasets.readers.finding import share_of
from datasets.source import Part, Source
from fedsim.core.errors import UserError

Load = Callable[..., Source]
OFFICE = [names[-1] for names in office_caltech10.SET.classes]
"""As the folders of common copies are called: backpack and laptop instead of back_pack and laptop_computer."""
SMALL = "dataset.image_size=16"


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(TF.resize(image.convert("RGB"), [16, 16])).transpose(2, 0, 1)


def expected_split(domain: Path, classes: list[str]) -> tuple[list[Path], list[Path]]:
    """80/20 of the files in the order of their names, by scikit-learn."""
    paths = sorted(domain.glob("*/*"))
    labels = [classes.index(path.parent.name) for path in paths]
    [(train, test)] = StratifiedShuffleSplit(1, test_size=0.2, random_state=0).split(paths, labels)
    return [paths[place] for place in train], [paths[place] for place in test]


def test_a_folder_is_split_by_class_and_every_domain_trains_on_as_many(tmp_path: Path, load: Load, write: Any) -> None:
    domains = {"amazon": 10, "caltech": 15, "dslr": 5, "webcam": 6}
    write.write_folders(tmp_path, {domain: dict.fromkeys(OFFICE, count) for domain, count in domains.items()})
    source = load("dataset=office_caltech10", f"data_dir={tmp_path}", SMALL)
    assert source.domain_names == tuple(domains)
    assert source.class_names[0] == "back_pack"
    smallest = 40  # of dslr's 50 images
    for number, (domain, count) in enumerate(domains.items()):
        train, test = expected_split(tmp_path / domain, OFFICE)
        rows = {part: source.indices(number, part) for part in Part}
        assert [len(rows[part]) for part in (Part.TRAIN, Part.VALIDATION, Part.TEST)] == [
            smallest * 5 // 10,
            smallest * 4 // 10,
            2 * count,
        ]
        for part, paths in ((Part.TRAIN, train[:20]), (Part.VALIDATION, train[-16:]), (Part.TEST, test)):
            assert np.array_equal(source.images[rows[part]], np.stack([pixels(path) for path in paths]))
            assert source.labels[rows[part]].tolist() == [OFFICE.index(path.parent.name) for path in paths]


def test_the_order_in_which_files_are_made_does_not_matter(tmp_path: Path, load: Load, write: Any) -> None:
    write.write_folders(tmp_path / "one", {"b": {"x": 8, "y": 6}, "a": {"y": 7, "x": 9}})
    for path in sorted((tmp_path / "one").glob("*/*/*"), reverse=True):
        copy = tmp_path / "two" / path.relative_to(tmp_path / "one")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    one, two = (load("dataset=imagefolder", f"data_dir={tmp_path / name}", SMALL) for name in ("one", "two"))
    assert one.domain_names == two.domain_names == ("a", "b")
    assert np.array_equal(one.images, two.images)
    assert np.array_equal(one.labels, two.labels)
    assert np.array_equal(one.parts, two.parts)


def test_fedbns_lists_decide_the_split_and_its_order(tmp_path: Path, load: Load, write: Any) -> None:
    root = tmp_path / "office_caltech_10"
    names = [each[0] for each in office_caltech10.SET.classes]
    domains = ("amazon", "caltech", "dslr", "webcam")
    write.write_folders(root, {domain: dict.fromkeys(names, 4) for domain in domains})
    rng, lists = np.random.default_rng(0), {}
    for domain in domains:
        paths = rng.permutation(sorted(str(path.relative_to(tmp_path)) for path in (root / domain).glob("*/*")))
        for half, some in (("train", paths[:30]), ("test", paths[30:])):
            texts = [Path(path).parts[-2] for path in some]
            (root / f"{domain}_{half}.pkl").write_bytes(pickle.dumps((some, texts)))
            lists[domain, half] = [tmp_path / path for path in some]
    source = load("dataset=office_caltech10", f"data_dir={tmp_path}", SMALL)
    for number, domain in enumerate(domains):
        for part, paths in (
            (Part.TRAIN, lists[domain, "train"][:15]),
            (Part.VALIDATION, lists[domain, "train"][-12:]),
            (Part.TEST, lists[domain, "test"]),
        ):
            rows = source.indices(number, part)
            assert np.array_equal(source.images[rows], np.stack([pixels(path) for path in paths]))
            assert source.labels[rows].tolist() == [names.index(path.parent.name) for path in paths]

    lists["amazon", "train"][3].unlink()
    with pytest.raises(UserError, match=r"amazon_train\.pkl lists .*amazon.*, which is not there\.$"):
        load("dataset=office_caltech10", f"data_dir={tmp_path}", SMALL)


@pytest.mark.parametrize("name", ["../secret/000.png", "/etc/passwd"])
def test_lists_name_no_file_outside_the_folder(name: str, tmp_path: Path, load: Load, write: Any) -> None:
    root = tmp_path / "office_caltech_10"
    names = [each[0] for each in office_caltech10.SET.classes]
    write.write_folders(root, {domain: dict.fromkeys(names, 2) for domain in office_caltech10.SET.domains})
    write.write_folders(tmp_path, {".": {"secret": 1}})
    for half in ("train", "test"):
        (root / f"amazon_{half}.pkl").write_bytes(pickle.dumps(([name], ["bike"])))
    with pytest.raises(UserError, match=r"amazon_train\.pkl lists .*, which is not in .*: put back the list"):
        load("dataset=office_caltech10", f"data_dir={tmp_path}", SMALL)


def test_lists_of_different_lengths_are_refused(tmp_path: Path, load: Load, write: Any) -> None:
    names = [each[0] for each in office_caltech10.SET.classes]
    write.write_folders(tmp_path, {domain: dict.fromkeys(names, 2) for domain in office_caltech10.SET.domains})
    for half in ("train", "test"):
        (tmp_path / f"amazon_{half}.pkl").write_bytes(pickle.dumps((["amazon/bike/000.png"], ["bike", "mug"])))
    with pytest.raises(UserError, match=r"amazon_train\.pkl lists 1 images and 2 classes: there must be as many\.$"):
        load("dataset=office_caltech10", f"data_dir={tmp_path}", SMALL)


@pytest.mark.parametrize("names", [7, None])
def test_a_list_whose_names_are_none_is_named(tmp_path: Path, names: object) -> None:
    for half in ("train", "test"):
        (tmp_path / f"amazon_{half}.pkl").write_bytes(pickle.dumps((names, ["bike"])))
    with pytest.raises(UserError, match=r"amazon_train\.pkl cannot be read"):
        find_domain(tmp_path, "amazon", {"bike": 0})


def test_domainnet_takes_its_ten_classes_and_leaves_the_others(tmp_path: Path, load: Load, write: Any) -> None:
    classes = [
        "bird",
        "feather",
        "headphones",
        "ice_cream",
        "teapot",
        "tiger",
        "whale",
        "windmill",
        "wine_glass",
        "zebra",
    ]
    chosen = ("clipart", "sketch")
    write.write_folders(tmp_path / "DomainNet", {each: {**dict.fromkeys(classes, 10), "axe": 3} for each in chosen})
    words = ("dataset=domainnet", f"data_dir={tmp_path}", "dataset.domains=[clipart,sketch]", SMALL)
    source = load(*words)
    assert source.class_names == tuple(classes)
    assert [len(source.indices(0, part)) for part in (Part.TRAIN, Part.VALIDATION, Part.TEST)] == [4, 4, 20]
    assert [len(load(*words, "dataset.share=null").indices(1, part)) for part in Part] == [80, 0, 20, 0]


def test_pacs_and_office_home_have_all_of_their_images(tmp_path: Path, load: Load, write: Any) -> None:
    pacs = ["dog", "elephant", "giraffe", "guitar", "horse", "house", "person"]
    write.write_folders(tmp_path / "PACS", {each: dict.fromkeys(pacs, 5) for each in ("photo", "sketch")})
    source = load("dataset=pacs", f"data_dir={tmp_path}", "dataset.domains=[sketch,photo]", SMALL)
    assert source.domain_names == ("sketch", "photo")
    assert source.class_names == tuple(pacs)
    assert [len(source.indices(0, part)) for part in Part] == [28, 0, 7, 0]
    half = load("dataset=pacs", f"data_dir={tmp_path}", "dataset.domains=[sketch,photo]", SMALL, "dataset.share=0.5")
    assert [len(half.indices(0, part)) for part in Part] == [14, 0, 7, 14]
    assert len(set(office_home.CLASSES)) == 65
    write.write_folders(tmp_path, {"Real World": dict.fromkeys(office_home.CLASSES, 5)})
    home = load("dataset=office_home", f"data_dir={tmp_path}", "dataset.domains=[Real World]", SMALL)
    assert (home.num_classes, len(home.images)) == (65, 325)


def test_any_folder_is_a_data_set_even_if_a_domain_lacks_a_class(tmp_path: Path, load: Load, write: Any) -> None:
    write.write_folders(tmp_path, {"north": {"cat": 6, "dog": 6}, "south": {"dog": 6, "eel": 6}, ".git": {"x": 1}})
    (tmp_path / "readme.txt").write_text("no picture")
    (tmp_path / "north" / "cat" / "notes.txt").write_text("no picture")
    source = load("dataset=imagefolder", f"data_dir={tmp_path}")
    assert source.domain_names == ("north", "south")
    assert source.class_names == ("cat", "dog", "eel")
    assert source.image_shape == (3, 64, 64)
    assert set(source.labels[source.domains == 1]) == {1, 2}
    assert load("dataset=imagefolder", f"data_dir={tmp_path}", "dataset.domains=[south]").class_names == ("dog", "eel")


def test_grey_becomes_colour_and_transparent_pictures_are_laid_on_white(tmp_path: Path, load: Load) -> None:
    (tmp_path / "one" / "a").mkdir(parents=True)
    (tmp_path / "one" / "b").mkdir()
    for number in range(5):
        Image.new("L", (16, 16), 40 + number).save(tmp_path / "one" / "a" / f"{number}.jpg")
        Image.new("RGBA", (16, 16), (10, 20, 30, 51)).save(tmp_path / "one" / "b" / f"{number}.PNG")
    source = load("dataset=imagefolder", f"data_dir={tmp_path}", SMALL)
    grey = source.images[source.labels == 0]
    assert np.abs(grey.astype(int) - grey[:, :1]).max() == 0
    assert sorted(int(each[0, 0, 0]) for each in grey) == [40, 41, 42, 43, 44]
    assert {tuple(each[:, 3, 3].tolist()) for each in source.images[source.labels == 1]} == {
        (206, 208, 210)
    }  # 51 is a fifth of 255


def break_png(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda root: break_png(root / "north" / "cat" / "002.png"), r"north/cat/002\.png cannot be read \("),
        (
            lambda root: (root / "north" / "cat" / "003.jpg").write_text("no picture"),
            r"003\.jpg cannot be read \(it is no image that Pillow knows, and begins with 'no picture'\)\.$",
        ),
        (lambda root: (root / "north" / "empty").mkdir(), r"north/empty holds no image: fill the folder, or leave"),
        (lambda root: [path.unlink() for path in (root / "north" / "cat").iterdir()], r"north/cat holds no image"),
        (
            lambda root: [path.unlink() for path in sorted((root / "north" / "cat").iterdir())[1:]],
            r"north/cat holds one image, too few to train and to test on: fill the folder, or leave",
        ),
        (
            lambda root: [path.unlink() for path in sorted((root / "north").rglob("*.png"))[::2]],
            r"north holds 4 images: to have each class among the 20 % for the test it needs 6\.$",
        ),
        (lambda root: (root / "east").mkdir(), r"east holds no CLASS folders: fill it, or name the others in dataset"),
    ],
)
def test_a_damaged_folder_is_named(
    harm: Callable[[Path], Any], sentence: str, tmp_path: Path, load: Load, write: Any
) -> None:
    write.write_folders(tmp_path, {"north": {"cat": 4, "dog": 4}})
    harm(tmp_path)
    with pytest.raises(UserError, match=sentence) as raised:
        load("dataset=imagefolder", f"data_dir={tmp_path}", SMALL)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["dataset=pacs"],
            r"the domains art_painting, cartoon, sketch are not there: for art_painting, looked for the folders .*/art_"
            r".* and .*PACS/art_painting; choose the data_dir that has all of them, or dataset\.domains=\[photo\], as ",
        ),
        (
            ["dataset=pacs", "dataset.domains=[north]"],
            r"dataset\.domains=north is not possible: choose from art_painting, ",
        ),
        (
            ["dataset=pacs", "dataset.domains=[photo]"],
            r".*photo/dog is missing: the domain photo needs a folder for each",
        ),
        (
            ["dataset=imagefolder", "dataset.domains=[west]"],
            r"the domain west is not there: looked for the folder .*west; choose the data_dir that has all of them, "
            r"or dataset\.domains=\[photo\], as was found\.$",
        ),
        (["dataset=imagefolder", "dataset.share=2"], r"dataset\.share=2 is not possible"),
        (
            ["dataset=office_caltech10", "dataset.validation_share=0"],
            r"the domains amazon, caltech, dslr, webcam are not",
        ),
    ],
)
def test_what_is_not_there_or_not_possible_is_said(
    words: list[str], sentence: str, tmp_path: Path, load: Load, write: Any
) -> None:
    write.write_folders(tmp_path, {"photo": {"cat": 6}})
    with pytest.raises(UserError, match=f"^{sentence}"):
        load(*words, f"data_dir={tmp_path}", SMALL)


def test_a_folder_that_may_not_be_read_is_named(
    tmp_path: Path, load: Load, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write.write_folders(tmp_path, {"north": {"cat": 4, "dog": 4}})
    scandir = os.scandir

    def closed(folder: Any) -> Any:
        if Path(folder).name == "dog":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(UserError, match=r"north/dog cannot be read \(Permission denied\)\.$"):
        load("dataset=imagefolder", f"data_dir={tmp_path}", SMALL)


def test_a_folder_without_classes_is_refused(tmp_path: Path, load: Load) -> None:
    with pytest.raises(UserError, match=r"holds no DOMAIN/CLASS folders: choose a folder that does\.$"):
        load("dataset=imagefolder", f"data_dir={tmp_path}")


def test_a_share_that_leaves_a_domain_nothing_is_refused_and_the_advice_is_accepted(
    tmp_path: Path, load: Load, write: Any
) -> None:
    write.write_folders(tmp_path, {"large": {"cat": 60, "dog": 60}, "small": {"cat": 5, "dog": 5}})
    words = ("dataset=imagefolder", f"data_dir={tmp_path}", SMALL)
    with pytest.raises(
        UserError,
        match=r"^dataset\.share=0\.1 leaves the domain small none of its 8 training .* least 0\.125,",
    ):
        load(*words, "dataset.share=0.1")
    source = load(*words, "dataset.share=0.125")
    assert source.training_sizes() == [12, 1]
    assert load(*words, "dataset.share=0.1", "dataset.domains=[large]").training_sizes() == [9]


def test_the_least_share_that_is_advised_is_an_image_of_any_domain() -> None:
    for images in (*range(1, 2000), 7438, 123_456):
        with pytest.raises(UserError, match=r"choose at least ([\d.e-]+),") as raised:
            share_of("share", 0.5 / images, images, "any")
        advised = re.search(r"choose at least ([\d.e-]+),", str(raised.value))
        assert advised is not None
        assert share_of("share", float(advised[1]), images, "any") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["share=0.01"], r"dataset\.share=0\.01 leaves the domain dslr none of its 40 training images: .*0\.025,"),
        (["validation_share=0.02"], r"dataset\.validation_share=0\.02 leaves the domain dslr none of its 40 train"),
        (
            ["share=0.8"],
            r"dataset\.share=0\.8 and dataset\.validation_share=0\.4 are more than the 40 training images of the "
            r"domain dslr: choose shares of at most 1 together, or dataset\.validation_share=null\.$",
        ),
    ],
)
def test_shares_of_the_smallest_domain_that_leave_nothing_are_refused(
    words: list[str], sentence: str, tmp_path: Path, load: Load, write: Any
) -> None:
    domains = {"amazon": 6, "caltech": 6, "dslr": 5, "webcam": 6}
    write.write_folders(tmp_path, {domain: dict.fromkeys(OFFICE, count) for domain, count in domains.items()})
    office = ("dataset=office_caltech10", f"data_dir={tmp_path}", SMALL)
    with pytest.raises(UserError, match=rf"^{sentence}"):
        load(*office, *(f"dataset.{word}" for word in words))
    advised = load(*office, "dataset.share=0.8", "dataset.validation_share=null")
    assert [len(advised.indices(2, part)) for part in Part] == [32, 0, 10, 8]
