"""Conversion of every kind of image file to 8 bits: what is black, what is white, and which way is up.

=================================== ==============================================================================
8 bits, grey or colour              as they are; palettes are looked up, one bit is black and white
16 bits, grey                       divided by 257 and rounded: 0 stays 0, 65535 becomes 255 (12 bits of TIFF: 4095)
16 bits, colour                     the upper 8 bits, which are all that Pillow reads
whole numbers of 32 bits            as 16 bits, where they fit into them and need more than 8; else refused
floating point                      times 255 and rounded, where all are from 0 to 1; else refused
transparent                         laid on white
CMYK, YCbCr, LAB, HSV               converted to RGB by Pillow
EXIF's orientation                  applied, unless EXIF is damaged
several frames or pages             the first
colour profiles                     not applied
=================================== ==============================================================================
"""

from contextlib import suppress

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from datasets.readers.labelled import Pixels

GREY = ("1", "L")
COLOUR = ("P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
SIXTEEN_BITS = ("PNG", "PPM", "JPEG2000")
"""Formats whose whole numbers have at most 16 bits, even where Pillow stores them in 32."""
WHITE = (255, 255, 255, 255)
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262
"""Tags of TIFF"""


def pixels(image: Image.Image) -> Pixels:
    """Return an opened image's first frame as (height, width) where it is grey, else as (height, width, 3).

    Raises:
        ValueError: If it is not determined which values are black and white; says why.
    """
    image.load()
    with suppress(SyntaxError):  # of Pillow for damaged EXIF: the pixels are intact
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith(("I", "F")):
        return _deep(image)
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        return np.asarray(Image.alpha_composite(Image.new("RGBA", seen.size, WHITE), seen).convert("RGB"))
    if image.mode in GREY:
        return np.asarray(image.convert("L"))
    if image.mode in COLOUR:
        return np.asarray(image.convert("RGB"))
    raise ValueError(f"its pixels are of the mode {image.mode}, which is not known")


def _deep(image: Image.Image) -> Pixels:
    """Convert grey of more than 8 bits to 8 bits."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if image.mode == "F":
        grey = _from_floats(values)
    else:
        if image.mode == "I" and image.format not in SIXTEEN_BITS:
            _check_fits(values)
        white = 4095 if tags.get(BITS_PER_SAMPLE) == (12,) else 65535
        grey = np.round(values / white * 255).astype(np.uint8)
    if tags.get(PHOTOMETRIC) == 0:  # white is zero, which Pillow respects only up to 8 bits
        grey = 255 - grey
    transparent = image.info.get("transparency")
    return grey if transparent is None else np.where(values == transparent, np.uint8(255), grey)


def _check_fits(values: npt.NDArray[np.int32]) -> None:
    least, most = int(values.min()), int(values.max())
    if least < 0 or most > 65535 or 0 < most <= 255:
        raise ValueError(
            f"its whole numbers of 32 bits are from {least} to {most}, which does not tell what is white: "
            "save it with 8 or 16 bits"
        )


def _from_floats(values: npt.NDArray[np.float32]) -> Pixels:
    if not (values.min() >= 0 and values.max() <= 1):  # also if one is NaN
        raise ValueError(
            f"its floating-point numbers are from {values.min():g} to {values.max():g}, and only 0 to 1 is known to "
            "mean black to white: scale it, or save it with 8 or 16 bits"
        )
    return np.round(values * 255).astype(np.uint8)
