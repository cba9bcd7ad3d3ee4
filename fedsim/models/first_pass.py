"""The first forward pass of a network that was just built: does it take the images, and answer with logits?"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from fedsim.core.errors import UserError
from fedsim.models.classifier import note_classifier
from fedsim.models.restored import undisturbed

if TYPE_CHECKING:
    from fedsim.config.settings import Settings

ImageShape = tuple[int, int, int]
"""(channels, height, width)"""
SIZES = (28, 32, 64, 96, 128, 160, 192, 224, 256, 299, 384, 512)
"""The sizes of images, in pixels, that are tried for a network that does not take those of the data."""
Build = Callable[[ImageShape], nn.Module]


def first_pass(network: nn.Module, build: Build, settings: "Settings", num_classes: int, shape: ImageShape) -> None:
    """Let the network evaluate two images of zeros, and note its classifier; nothing else about it changes.

    ``build`` makes the network again for images of another size.

    Raises: ``UserError`` if it does not take them, with a size of images that it takes where there is one that the data
    set can be given, or if it answers with anything but a logit for each image and class.
    """
    name = settings.model["name"]
    try:
        with undisturbed(network):
            answer = note_classifier(network.eval(), torch.zeros(2, *shape), num_classes)
    except Exception as error:  # whatever a network raises
        size = _size_that_fits(build, shape) if "image_size" in settings.dataset else None
        advice = "" if size is None else f"dataset.image_size={size}, or "
        raise UserError(
            f"model={name} cannot take images of {shape[1]}x{shape[2]} with {shape[0]} channels "
            f"({reason_of(error)}): choose {advice}another model."
        ) from error
    check_answer(answer, 2, num_classes, name, "")


def check_answer(answer: object, images: int, num_classes: int, name: str, when: str) -> None:
    """Refuse a network whose answer is not (images, num_classes) numbers; ``when`` is for the sentence.

    Raises: ``UserError``.
    """
    if isinstance(answer, torch.Tensor) and answer.shape == (images, num_classes):
        return
    what = f"numbers of shape {tuple(answer.shape)}" if isinstance(answer, torch.Tensor) else type(answer).__name__
    raise UserError(
        f"model={name} answers {images} images{when} with {what}, and not with {num_classes} logits for each: "
        "choose another model."
    )


def reason_of(error: Exception) -> str:
    """Return class and message of an error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(".")


def _size_that_fits(build: Build, shape: ImageShape) -> int | None:
    """The smallest of ``SIZES`` whose images the network takes, tried without memory or values."""
    for size in SIZES:
        try:
            with torch.device("meta"), torch.no_grad():
                other = (shape[0], size, size)
                build(other).eval()(torch.zeros(2, *other))
        except Exception:
            continue
        return size
    return None
