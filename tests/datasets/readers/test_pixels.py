"""One rule for every pixel format: real files of each, against shades that are computed by hand."""

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datasets.readers.image_folder import decode
from datasets.readers.parquet import read_parquet
from fedsim.core.errors import UserError

RAMP = np.linspace(0, 65535, 64 * 48).round().reshape(64, 48)
"""Every 21st or so of the 65536 values of 16 bits."""
EIGHT = np.floor(RAMP / 257 + 0.5).astype(np.uint8)
"""The shades of 8 bits that they are nearest to."""
QUARTERS = np.zeros((20, 30, 3), np.uint8)
QUARTERS[:10, :15], QUARTERS[:10, 15:], QUARTERS[10:, :15] = (200, 40, 40), (40, 200, 40), (40, 40, 200)


def saved(image: Image.Image, path: Path, **options: Any) -> np.ndarray:
    image.save(path, **options)
    return decode(path)


def centres(pixels: np.ndarray) -> list[list[int]]:
    """The colours in the middle of the four quarters, which a lossy format keeps nearly."""
    height, width = pixels.shape[:2]
    return [pixels[y, x].astype(int).tolist() for y in (height // 4, -height // 4) for x in (width // 4, -width // 4)]


@pytest.mark.parametrize("name", ["grey.png", "grey.tif", "grey.pgm", "grey.jp2"])
def test_grey_of_16_bits_keeps_its_shades(name: str, tmp_path: Path) -> None:
    assert np.array_equal(saved(Image.fromarray(RAMP.astype(np.uint16)), tmp_path / name), EIGHT)


def test_the_order_of_the_bytes_does_not_matter(tmp_path: Path) -> None:
    image = Image.fromarray(RAMP.astype(">u2"))
    assert image.mode == "I;16B"
    assert np.array_equal(saved(image, tmp_path / "big.tif"), EIGHT)


def test_whole_numbers_of_32_bits_are_as_16_where_they_fit(tmp_path: Path) -> None:
    assert np.array_equal(saved(Image.fromarray(RAMP.astype(np.int32)), tmp_path / "a.tif"), EIGHT)


@pytest.mark.parametrize("name", ["float.tif", "float.pfm"])
def test_floats_from_zero_to_one_are_shades(name: str, tmp_path: Path) -> None:
    shades = np.arange(256).reshape(16, 16)
    assert np.array_equal(saved(Image.fromarray((shades / 255).astype(np.float32)), tmp_path / name), shades)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            np.linspace(0, 200, 64, dtype=np.float32),
            r"its floating-point numbers are from 0 to 200, and only 0 to 1 is",
        ),
        (np.linspace(-1, 1, 64, dtype=np.float32), r"its floating-point numbers are from -1 to 1, and only 0 to 1 is"),
        (np.full(64, np.nan, np.float32), r"its floating-point numbers are from nan to nan, and only 0 to 1 is"),
        (np.arange(64, dtype=np.int32) * 4, r"its whole numbers of 32 bits are from 0 to 252, which does not tell"),
        (np.arange(64, dtype=np.int32) * 4000, r"its whole numbers of 32 bits are from 0 to 252000, which does not"),
        (np.arange(64, dtype=np.int32) - 9, r"its whole numbers of 32 bits are from -9 to 54, which does not tell"),
    ],
)
def test_numbers_that_do_not_tell_what_is_white_are_refused(values: np.ndarray, sentence: str, tmp_path: Path) -> None:
    Image.fromarray(values.reshape(8, 8)).save(tmp_path / "x.tif")
    with pytest.raises(UserError, match=rf"x\.tif cannot be read \({sentence}") as raised:
        decode(tmp_path / "x.tif")
    assert "\n" not in str(raised.value)


def write_tiff(path: Path, values: np.ndarray, bits: int, photometric: int) -> None:
    """An uncompressed grey TIFF with one strip, written by the format's specification (TIFF 6.0)."""
    if bits == 12:  # two values in three bytes
        data = b"".join(int(a << 12 | b).to_bytes(3, "big") for a, b in values.reshape(-1, 2).tolist())
    else:
        data = values.astype("<u2").tobytes()
    height, width = values.shape
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height)]
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in [*tags, (279, len(data))]]
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory)


@pytest.mark.parametrize(("bits", "photometric"), [(16, 1), (16, 0), (12, 1)])
def test_tiff_says_how_many_bits_and_which_end_is_white(bits: int, photometric: int, tmp_path: Path) -> None:
    values = np.floor(RAMP / 65535 * (2**bits - 1))
    write_tiff(tmp_path / "x.tif", values.astype(np.int64), bits, photometric)
    shades = np.floor(values / (2**bits - 1) * 255 + 0.5)
    assert np.array_equal(decode(tmp_path / "x.tif"), shades if photometric else 255 - shades)


@pytest.mark.parametrize("name", ["one.png", "one.tif", "one.pbm", "one.bmp"])
def test_one_bit_is_black_and_white(name: str, tmp_path: Path) -> None:
    pixels = saved(Image.fromarray(RAMP > 30000), tmp_path / name)
    expected = np.where(RAMP > 30000, 255, 0)
    assert np.array_equal(pixels if pixels.ndim == 2 else pixels[..., 1], expected)


@pytest.mark.parametrize(("mode", "name"), [("RGBA", "x.png"), ("RGBA", "x.webp"), ("RGBA", "x.tif"), ("LA", "x.png")])
def test_transparency_is_laid_on_white(mode: str, name: str, tmp_path: Path) -> None:
    drawing = np.zeros((16, 16, 4), np.uint8)
    drawing[..., :3], drawing[..., 3] = 50, np.arange(16) * 17
    options = {"lossless": True, "exact": True} if name == "x.webp" else {}
    pixels = saved(Image.fromarray(drawing).convert(mode), tmp_path / name, **options)
    share = np.arange(16) * 17 / 255
    expected = np.broadcast_to((50 * share + 255 * (1 - share))[None, :, None], (16, 16, 3))
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).max() <= 1


def test_one_colour_of_a_palette_or_of_a_png_can_be_transparent(tmp_path: Path) -> None:
    palette = Image.fromarray((np.arange(64).reshape(8, 8) % 2).astype(np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    odd = np.arange(64).reshape(8, 8, 1) % 2 == 1
    cases: dict[str, tuple[Any, list[int]]] = {
        "all.png": (None, [10, 20, 30]),
        "one.png": (0, [255, 255, 255]),
        "one.gif": (0, [255, 255, 255]),
        "half.png": (bytes([51, 255]), [206, 208, 210]),
    }
    for name, (transparent, even) in cases.items():
        options = {} if transparent is None else {"transparency": transparent}
        assert np.array_equal(saved(palette, tmp_path / name, **options), np.where(odd, [40, 50, 60], even)), name
    grey = saved(Image.fromarray(RAMP.astype(np.uint16)), tmp_path / "grey16.png", transparency=65535)
    assert np.array_equal(grey, EIGHT)  # what is transparent was white already
    grey = saved(Image.fromarray(RAMP.astype(np.uint16)), tmp_path / "grey16.png", transparency=0)
    assert np.array_equal(grey, np.where(RAMP == 0, 255, EIGHT))


@pytest.mark.parametrize(("name", "tolerance"), [("ink.tif", 1), ("ink.jpg", 3)])
def test_ink_is_turned_into_light(name: str, tolerance: int, tmp_path: Path) -> None:
    """Of a JPEG Pillow writes and reads inverted CMYK, as Adobe does."""
    ink = (10, 60, 200, 40)
    options = {"quality": 100} if name == "ink.jpg" else {}
    pixels = saved(Image.new("CMYK", (16, 16), ink), tmp_path / name, **options)
    expected = [(255 - colour) * (255 - ink[3]) / 255 for colour in ink[:3]]
    assert np.abs(pixels - np.array(expected)).max() <= tolerance
    if name == "ink.jpg":
        assert b"Adobe" in (tmp_path / name).read_bytes()


def test_other_spaces_of_colour_are_turned_into_rgb(tmp_path: Path) -> None:
    image = Image.fromarray(QUARTERS)
    for mode in ("YCbCr", "LAB"):
        pixels = saved(image.convert(mode), tmp_path / f"{mode}.tif")
        with Image.open(tmp_path / f"{mode}.tif") as opened:
            assert opened.mode == mode
        assert np.abs(pixels.astype(int) - QUARTERS).max() <= 5


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tif", "x.webp", "x.avif"])
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda seen: seen),
        (2, np.fliplr),
        (3, lambda seen: np.rot90(seen, 2)),
        (6, lambda seen: np.rot90(seen, -1)),
        (8, np.rot90),
        (77, lambda seen: seen),
    ],
)
def test_the_orientation_of_exif_is_applied(
    orientation: int, upright: Callable[[np.ndarray], np.ndarray], name: str, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    pixels = saved(Image.fromarray(QUARTERS), tmp_path / name, exif=exif)
    expected = upright(QUARTERS)
    assert pixels.shape == expected.shape
    assert np.abs(np.array(centres(pixels)) - centres(expected)).max() < 12


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_grey_tiff_on_its_side_is_turned_whole(dtype: type, compression: str | None, tmp_path: Path) -> None:
    """Uncompressed, Pillow would map it and read its rows with the length of its columns."""
    exif = Image.Exif()
    exif[274] = 6
    values = (RAMP / (257 if dtype is np.uint8 else 1)).round().astype(dtype)
    pixels = saved(Image.fromarray(values), tmp_path / "x.tif", exif=exif, compression=compression)
    assert np.array_equal(pixels, np.rot90(EIGHT, -1))


def test_damaged_exif_does_not_cost_the_image(tmp_path: Path) -> None:
    assert np.array_equal(saved(Image.fromarray(QUARTERS), tmp_path / "x.png", exif=b"none of it"), QUARTERS)


@pytest.mark.parametrize("name", ["x.gif", "x.png", "x.webp", "x.tif", "x.avif"])
def test_of_several_frames_or_pages_the_first_is_read(name: str, tmp_path: Path) -> None:
    first, *others = (Image.new("RGB", (16, 16), (shade, shade, shade)) for shade in (60, 120, 240))
    pixels = saved(first, tmp_path / name, save_all=True, append_images=others)
    with Image.open(tmp_path / name) as opened:
        assert opened.n_frames == 3
    assert np.abs(pixels.astype(int) - 60).max() <= 3


def test_a_progressive_jpeg_is_as_another_and_a_cut_off_one_is_named(tmp_path: Path) -> None:
    image = Image.fromarray(QUARTERS)
    plain = saved(image, tmp_path / "plain.jpg")
    assert np.array_equal(saved(image, tmp_path / "progressive.jpg", progressive=True), plain)
    for name in ("plain", "progressive"):
        file = tmp_path / f"{name}.jpg"
        file.write_bytes(file.read_bytes()[:-60])
        with pytest.raises(UserError, match=rf"{name}\.jpg cannot be read \(.*truncated"):
            decode(file)


def test_a_profile_of_colours_is_not_applied(tmp_path: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert np.array_equal(saved(Image.fromarray(QUARTERS), tmp_path / "x.png", icc_profile=profile), QUARTERS)


def test_parquet_files_follow_the_same_rule(tmp_path: Path) -> None:
    drawing = np.zeros((16, 16, 4), np.uint8)
    drawing[:, 8:, 3] = 255
    images = [Image.fromarray(RAMP.astype(np.uint16)), Image.fromarray(drawing)]
    encoded = []
    for image in images:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    pd.DataFrame({"image": encoded, "label": [0, 1]}).to_parquet(tmp_path / "train.parquet")
    read, _, _ = read_parquet([str(tmp_path / "train.parquet")], "label", 2)
    assert np.array_equal(read[0], EIGHT)
    assert np.array_equal(read[1][..., 0], np.repeat([[255] * 8 + [0] * 8], 16, axis=0))
