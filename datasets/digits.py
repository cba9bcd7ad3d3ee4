"""``dataset=digits``: six domains of digits that are generated on this machine, always the same, without a download.

Five domains hold real handwritten digits, scikit-learn's copy of 1797 digits of the UCI set (8x8), each
image in one domain only; the sixth is rendered with the fonts that matplotlib ships. Photographs for the textures are
the two that scikit-learn ships. What differs between the domains is the look, not the labels:

========== =======================================================================================
plain      white strokes on black, as in MNIST
inverted   dark strokes on white
faded      strokes a little brighter than a grey, noisy ground
texture    strokes invert a patch of a photograph, as in MNIST-M (Ganin & Lempitsky 2015)
street     coloured strokes on coloured ground, with neighbours at the sides and blur, as in SVHN
font       typefaces, white on black
========== =======================================================================================
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter, ImageFont
from PIL.ImageDraw import Draw
from sklearn.datasets import load_digits, load_sample_images
from sklearn.utils import Bunch

from datasets.readers.decode import check_image_size, empty_images, fill
from datasets.source import Part, Source
from fedsim.core.errors import UserError

SIZE = 28
HANDWRITTEN_DIGITS = 1797
MARGIN = 4
"""Images per domain that are never used, since the last ones of a domain do not have all classes."""
FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-BoldOblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic"),
    *("cmr10", "cmb10", "cmss10", "cmtt10", "cmti10"),
)

Grey = npt.NDArray[np.float64]
"""(28, 28), 0 for the ground and 1 for a stroke"""
Colour = npt.NDArray[np.float64]
"""(28, 28, 3), from 0 to 1"""
Style = Callable[[Grey, np.random.Generator], Colour]


@lru_cache(maxsize=1)  # the jobs of a sweep share it
def load(train_per_domain: int = 240, test_per_domain: int = 110, image_size: int = SIZE) -> Source:
    """Return ``train_per_domain`` and ``test_per_domain`` images of each of the six domains, 3 x size x size.

    They are drawn at 28x28 and then resized.

    Raises:
        UserError: If there are not that many images.
    """
    check_image_size(image_size)
    per_domain = train_per_domain + test_per_domain
    most = HANDWRITTEN_DIGITS // len(HANDWRITTEN) - MARGIN
    if train_per_domain < 1 or test_per_domain < 1 or per_domain > most:
        raise UserError(
            f"dataset.train_per_domain={train_per_domain} and dataset.test_per_domain={test_per_domain} cannot be had: "
            f"choose at most {most} in all, and at least 1 of each."
        )
    handwritten = _deal_handwritten(len(HANDWRITTEN), per_domain)
    images, labels = [], []
    for number, style in enumerate(HANDWRITTEN.values()):
        rng = np.random.default_rng([number, 28])
        strokes, digits = handwritten[number]
        images += [style(_handwritten_stroke(stroke, rng), rng) for stroke in strokes]
        labels.append(digits)
    rng = np.random.default_rng([len(HANDWRITTEN), 28])
    digits = np.arange(per_domain) % 10
    images += [_plain(_font_stroke(int(digit), rng), rng) for digit in digits]
    labels.append(digits)

    names = (*HANDWRITTEN, "font")
    drawn = np.round(np.stack(images) * 255).astype(np.uint8)
    pixels = empty_images(len(drawn), image_size)
    fill(pixels, drawn)
    return Source(
        images=pixels,
        labels=np.concatenate(labels).astype(np.int64),
        domains=np.repeat(np.arange(len(names)), per_domain),
        parts=np.tile(np.where(np.arange(per_domain) < train_per_domain, Part.TRAIN, Part.TEST), len(names)).astype(
            np.uint8
        ),
        domain_names=names,
        class_names=tuple(map(str, range(10))),
    )


def _deal_handwritten(domains: int, per_domain: int) -> list[tuple[Grey, npt.NDArray[np.int64]]]:
    """Deal the 1797 digits, sorted by class, to the domains in turn, so that no two domains share an image.

    Within a domain the classes then alternate. So its first images, which are for training, and its last, which are for
    the test, have every class about equally often.
    """
    bunch = load_digits()
    assert isinstance(bunch, Bunch)
    by_class = np.argsort(bunch.target, kind="stable")
    dealt = []
    for domain in range(domains):
        mine = by_class[domain::domains]
        rank_in_class = np.concatenate([np.arange(n) for n in np.bincount(bunch.target[mine])])
        mine = mine[np.argsort(rank_in_class, kind="stable")][:per_domain]
        dealt.append((bunch.images[mine] / 16.0, bunch.target[mine]))
    return dealt


def _handwritten_stroke(image: Grey, rng: np.random.Generator) -> Grey:
    """Enlarge an image from 8x8 to 28x28, and rotate, shift and sharpen it slightly."""
    small = Image.fromarray(np.round(image * 255).astype(np.uint8))
    large = small.resize((22, 22), Image.Resampling.BICUBIC)
    canvas = Image.new("L", (SIZE, SIZE))
    canvas.paste(large, (3 + int(rng.integers(-1, 2)), 3 + int(rng.integers(-1, 2))))
    canvas = canvas.rotate(float(rng.uniform(-10, 10)), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(canvas) / 255.0 * 1.6 - 0.3, 0, 1)


def _font_stroke(digit: int, rng: np.random.Generator) -> Grey:
    canvas = Image.new("L", (SIZE, SIZE))
    font = _font(FONTS[int(rng.integers(len(FONTS)))], int(rng.integers(18, 26)))
    centre = (SIZE / 2 + float(rng.uniform(-3, 3)), SIZE / 2 + float(rng.uniform(-3, 3)))
    Draw(canvas).text(centre, str(digit), fill=255, font=font, anchor="mm")
    return np.asarray(canvas.rotate(float(rng.uniform(-20, 20)), Image.Resampling.BICUBIC)) / 255.0


@lru_cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"), size)


def _plain(stroke: Grey, rng: np.random.Generator) -> Colour:
    return np.repeat(stroke[..., None], 3, axis=2)


def _inverted(stroke: Grey, rng: np.random.Generator) -> Colour:
    return 1 - 0.9 * _plain(stroke, rng)


def _faded(stroke: Grey, rng: np.random.Generator) -> Colour:
    ground = rng.uniform(0.35, 0.5)
    contrast = rng.uniform(0.12, 0.2)
    noise = rng.normal(0, 0.03, stroke.shape)
    return np.clip(_plain(ground + contrast * stroke + noise, rng), 0, 1)


def _texture(stroke: Grey, rng: np.random.Generator) -> Colour:
    photo = _photos()[int(rng.integers(2))]
    top, left = int(rng.integers(photo.shape[0] - SIZE)), int(rng.integers(photo.shape[1] - SIZE))
    patch = photo[top : top + SIZE, left : left + SIZE]
    return np.abs(patch - 0.9 * stroke[..., None])


@lru_cache
def _photos() -> tuple[Colour, Colour]:
    """Return the two photographs at a third of their size, so that a patch of 28x28 shows some structure."""
    sample = load_sample_images()
    assert isinstance(sample, Bunch)
    small = [Image.fromarray(photo).reduce(3) for photo in sample.images]
    return np.asarray(small[0]) / 255.0, np.asarray(small[1]) / 255.0


def _street(stroke: Grey, rng: np.random.Generator) -> Colour:
    ground, ink = rng.uniform(0, 1, 3), rng.uniform(0, 1, 3)
    while abs(float(np.mean(ground - ink))) < 0.25:  # the digit has to be legible
        ground, ink = rng.uniform(0, 1, 3), rng.uniform(0, 1, 3)
    coverage = stroke.copy()
    for side in (-1, 1):  # the digits to the left and right of the one in the middle, cut by the border
        neighbour = _font_stroke(int(rng.integers(10)), rng)
        coverage = np.maximum(coverage, _shift_columns(neighbour, side * int(rng.integers(19, 24))))
    left, right = rng.uniform(0.8, 1.1, 2)
    shade = np.linspace(float(left), float(right), SIZE)[None, :, None]
    colour = np.clip((ground + coverage[..., None] * (ink - ground)) * shade, 0, 1)
    blurred = Image.fromarray(np.round(colour * 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.0)))
    )
    return np.asarray(blurred) / 255.0


def _shift_columns(image: Grey, columns: int) -> Grey:
    shifted = np.zeros_like(image)
    if columns > 0:
        shifted[:, columns:] = image[:, :-columns]
    else:
        shifted[:, :columns] = image[:, -columns:]
    return shifted


HANDWRITTEN: dict[str, Style] = {
    "plain": _plain,
    "inverted": _inverted,
    "faded": _faded,
    "texture": _texture,
    "street": _street,
}
