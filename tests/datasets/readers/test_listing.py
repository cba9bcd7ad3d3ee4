"""Which files are read, which are told, and where links lead."""

import logging
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datasets.readers.listing import list_images, suffixes, told
from datasets.source import Source
from fedsim.app.show_data import main
from fedsim.core.errors import UserError

Load = Callable[..., Source]
SMALL = "dataset.image_size=16"


@pytest.fixture
def root(tmp_path: Path, write: Any) -> Path:
    folder = tmp_path / "data"
    write.write_folders(folder, {"a": {"cat": 6, "dog": 6}, "b": {"cat": 6, "dog": 6}})
    return folder


def test_files_of_every_ending_in_either_case_are_read(root: Path, load: Load, caplog: Any) -> None:
    written = {".jfif": "JPEG", ".JPE": "JPEG", ".pgm": "PPM", ".Pnm": "PPM", ".TIF": "TIFF", ".jp2": "JPEG2000"}
    plain = {".avif", ".webp", ".bmp", ".gif", ".jpeg", ".ppm", ".tga", ".qoi"}
    for ending in (*written, *plain):
        picture = Image.new("RGB", (16, 16), (200, 40, 40))
        picture.save(root / "a" / "cat" / f"x{ending}", written.get(ending))
    assert {ending.lower() for ending in (*written, *plain)} <= suffixes()
    assert len(load("dataset=imagefolder", f"data_dir={root}", SMALL).images) == 24 + len(written) + len(plain)
    assert not caplog.records


def test_folders_inside_a_class_are_read(root: Path, load: Load, caplog: Any) -> None:
    for number, file in enumerate(sorted((root / "a" / "cat").iterdir())[:4]):
        inside = root / "a" / "cat" / "2024" / str(number)
        inside.mkdir(parents=True)
        file.rename(inside / file.name)
    source = load("dataset=imagefolder", f"data_dir={root}", SMALL)
    assert np.bincount(source.labels[source.domains == 0]).tolist() == [6, 6]
    assert not caplog.records


def test_a_data_dir_one_folder_too_high_is_told(root: Path, load: Load, caplog: Any) -> None:
    load("dataset=imagefolder", f"data_dir={root.parent}", SMALL)
    assert f"all images of 2 classes lie in folders inside the class, as of {root / 'a'}:" in caplog.text
    assert "data_dir is one folder too high" in caplog.text


def test_what_is_not_read_is_told_in_one_line_and_what_systems_leave_behind_is_not(
    root: Path, load: Load, caplog: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("x.heic", "y.heic", "notes.txt", "noending", "Thumbs.db", "._000.jpg", ".DS_Store", "desktop.ini"):
        (root / "a" / "cat" / name).write_text("x")
    (root / "b" / "dog" / "@eaDir").mkdir()
    (root / "b" / "dog" / "@eaDir" / "thumb.jpg").write_text("x")
    (root / "__MACOSX" / "a").mkdir(parents=True)
    shutil.copy(root / "b" / "dog" / "000.png", root / "b" / "loose.png")
    with caplog.at_level(logging.WARNING):
        source = load("dataset=imagefolder", f"data_dir={root}", SMALL)
    assert source.domain_names == ("a", "b")
    assert len(source.images) == 24
    [record] = caplog.records
    said = record.getMessage()
    assert said.startswith(
        "5 files among the images are left out, being of no kind that is read or in no class: 2 .heic,"
    )
    assert all(part in said for part in ("2 .heic, ", "1 .txt", "1 without an ending", "1 .png"))
    caplog.clear()
    assert main(["dataset=imagefolder", f"data_dir={root}", SMALL]) == 0  # said again where the images are cached
    assert [each.getMessage() for each in caplog.records] == [said]


def test_many_endings_are_summed_up() -> None:
    files = [Path(f"/d/{number}.{ending}") for number, ending in enumerate("aabcdefg")]
    assert told(files) == "2 .a, 1 .b, 1 .c, 1 .d, 3 others, as /d/0.a"


def test_a_class_of_files_that_are_not_read_says_so(root: Path, load: Load) -> None:
    for file in (root / "a" / "cat").iterdir():
        file.rename(file.with_suffix(".heic"))
    with pytest.raises(UserError, match=r"a/cat holds no image \(left out are 6 \.heic, as .*000\.heic\): fill the"):
        load("dataset=imagefolder", f"data_dir={root}", SMALL)


@pytest.mark.parametrize(
    ("place", "leads_to", "sentence"),
    [
        ("a/cat/0.png", "../../.git/annex/x", r"a/cat/0\.png is a link to \.\./\.\./\.git/annex/x, which is not there"),
        ("a/cat/more", "/nowhere", r"a/cat/more is a link to /nowhere, which is not there"),
        ("a/eel", "/nowhere", r"a/eel is a link to /nowhere, which is not there: fetch or mount what it leads to"),
        ("c", "/nowhere", r"data/c is a link to /nowhere, which is not there"),
        ("a/cat/up", "..", r"a/cat/up is a link to a folder that it lies in: remove the link\.$"),
        ("a/up", ".", r"a/up is a link to a folder that it lies in"),
        ("up", "..", r"data/up is a link to a folder that it lies in"),
        ("a/cat/s.png", "s.png", r"a/cat/s\.png cannot be read \(Too many levels of symbolic links\)\.$"),
    ],
)
def test_a_link_to_nothing_or_in_a_circle_is_named(
    place: str, leads_to: str, sentence: str, root: Path, load: Load
) -> None:
    (root / place).symlink_to(leads_to)
    with pytest.raises(UserError, match=sentence):
        load("dataset=imagefolder", f"data_dir={root}", SMALL)


def test_two_links_that_lead_to_each_other_are_named(root: Path) -> None:
    (root / "a" / "cat" / "x").symlink_to(root / "b")
    (root / "b" / "dog" / "y").symlink_to(root / "a")
    with pytest.raises(UserError, match=r"a/cat/x/dog/y is a link to a folder that it lies in"):
        list_images(root / "a" / "cat")


def test_links_that_lead_somewhere_are_followed(root: Path, load: Load) -> None:
    elsewhere = root.parent / "elsewhere"
    (root / "a" / "cat").rename(elsewhere)
    (root / "a" / "cat").symlink_to(elsewhere)
    (root / "a" / "dog" / "linked.png").symlink_to(elsewhere / "000.png")
    source = load("dataset=imagefolder", f"data_dir={root}", SMALL)
    assert np.bincount(source.labels[source.domains == 0]).tolist() == [6, 7]


def test_a_domain_that_is_not_asked_for_may_be_elsewhere(root: Path, load: Load) -> None:
    (root / "c").symlink_to("/nowhere")
    assert load("dataset=imagefolder", f"data_dir={root}", SMALL, "dataset.domains=[a,b]").domain_names == ("a", "b")


def test_a_pipe_is_not_waited_for(root: Path, caplog: Any) -> None:
    os.mkfifo(root / "a" / "cat" / "pipe.png")
    assert len(list_images(root / "a" / "cat").images) == 6


def test_names_of_files_are_bytes_and_names_of_classes_text(root: Path, load: Load) -> None:
    folder = os.fsencode(root / "a" / "cat")
    os.rename(folder + b"/000.png", folder + b"/caf\xe9.png")
    assert len(load("dataset=imagefolder", f"data_dir={root}", SMALL).images) == 24
    os.rename(folder, os.fsencode(root / "a" / "caf") + b"\xe9")
    assert load("dataset=imagefolder", f"data_dir={root}", SMALL).class_names == (r"caf\xe9", "cat", "dog")


def test_an_accent_written_in_two_ways_is_one_class(root: Path, load: Load) -> None:
    ways = [unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD")]
    assert ways[0] != ways[1]
    for domain, way in zip(("a", "b"), ways, strict=True):
        (root / domain / "cat").rename(root / domain / way)
    source = load("dataset=imagefolder", f"data_dir={root}", SMALL)
    assert source.class_names == (ways[0], "dog")
    (root / "a" / "dog").rename(root / "a" / ways[1])
    with pytest.raises(UserError, match=rf"two classes of .*data/a are called {ways[0]}"):
        load("dataset=imagefolder", f"data_dir={root}", SMALL)


def test_a_file_that_vanishes_before_it_is_read_is_named(
    root: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets.readers import decode

    fingerprint, gone = decode.fingerprint, root / "a" / "cat" / "003.png"
    for when in ("before its size is asked", "after it"):

        def vanishing(options: object, files: Any, when: str = when) -> str:
            if when.startswith("before"):
                shutil.move(gone, root.parent / "kept.png")
                return fingerprint(options, files)
            digest = fingerprint(options, files)
            shutil.move(gone, root.parent / "kept.png")
            return digest

        monkeypatch.setattr(decode, "fingerprint", vanishing)
        with pytest.raises(UserError, match=r"a/cat/003\.png cannot be read \(No such file or directory\)\.$"):
            load("dataset=imagefolder", f"data_dir={root}", SMALL)
        shutil.move(root.parent / "kept.png", gone)


def test_a_file_that_may_not_be_read_is_named(root: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def closed(file: Path, *more: Any, **options: Any) -> Any:
        if str(file).endswith("a/dog/002.png"):
            raise PermissionError(13, "Permission denied", str(file))
        return opened(file, *more, **options)

    monkeypatch.setattr(Path, "open", closed)  # root, who runs tests in a container, may read everything
    with pytest.raises(UserError, match=r"a/dog/002\.png cannot be read \(Permission denied\)\.$"):
        load("dataset=imagefolder", f"data_dir={root}", SMALL)


def test_images_that_are_almost_black_are_refused(root: Path, load: Load) -> None:
    for file in (root / "a").rglob("*.png"):  # 12 bits in files of 16
        Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)).save(file)
    with pytest.raises(UserError, match=r"data/a holds images that are almost black, none with a pixel above 15"):
        load("dataset=imagefolder", f"data_dir={root}", SMALL)
