"""What could be lost or taken for something else without a word: one sentence tells it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.build import build_federation
from datasets.cache import VARIABLE
from datasets.federation import Federation
from fedsim.config.composition import compose
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    for domain in ("a", "b"):
        for number, name in enumerate(("cat", "dog")):
            folder = tmp_path / "data" / domain / name
            folder.mkdir(parents=True)
            for i in range(5):
                pixels = np.random.default_rng([number, i]).integers(0, 255, (8, 8, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "data"


def load(root: Path, *words: str) -> Federation:
    fixed = ("dataset=imagefolder", f"data_dir={root}", "dataset.image_size=8")
    return build_federation(Settings.from_config(compose([*fixed, *words])))


def test_images_beside_the_domains_are_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copy(root / "a" / "cat" / "0.png", root / "lost.png")
    load(root)
    assert f"lie beside the folders of the domains and are left out: 1 .png, as {root / 'lost.png'}" in caplog.text


def test_a_list_of_half_a_split_is_not_passed_over(root: Path) -> None:
    (root / "a_train.pkl").write_bytes(b"a list")
    with pytest.raises(UserError, match=r"/a_train\.pkl is there and a_test\.pkl is not: put both"):
        load(root)


def test_one_class_is_nothing_to_tell_apart(root: Path) -> None:
    for domain in ("a", "b"):
        shutil.rmtree(root / domain / "dog")
    with pytest.raises(UserError, match=r"^dataset=imagefolder has one class, cat, and nothing to tell apart"):
        load(root)


def test_a_domain_that_is_not_there_names_those_that_are(root: Path) -> None:
    with pytest.raises(UserError, match=r"or dataset\.domains=\[a,b\], as was found\.$"):
        load(root, "dataset.domains=[A]")


@pytest.mark.parametrize("size", [10_000_000, 100_000_000])
def test_images_that_no_disk_holds_are_refused_by_their_size(root: Path, size: int) -> None:
    with pytest.raises(
        UserError, match=rf"^dataset\.image_size={size} is not possible: 20 images of it are 6e\+0?\d+ GB"
    ):
        load(root, f"dataset.image_size={size}")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "begins with 'version https://git-lfs.github"),
        (b"\xff\xfe\x00", "it is no image that Pillow knows)"),
    ],
)
def test_a_file_that_is_no_image_says_what_it_is(root: Path, content: bytes, sentence: str) -> None:
    (root / "a" / "cat" / "0.png").write_bytes(content)
    with pytest.raises(UserError) as caught:
        load(root)
    assert str(caught.value).startswith(f"{root / 'a' / 'cat' / '0.png'} cannot be read (")
    assert sentence in str(caught.value)
