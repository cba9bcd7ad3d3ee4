"""The first forward pass of a new network, which checks that it accepts the images and returns logits."""

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
"""(channels, height, width)."""
SIZES = (28, 32, 64, 96, 128, 160, 192, 224, 256, 299, 384, 512)
"""The sizes of images, in pixels, that are tried with a network that does not accept those of the data."""
Build = Callable[[ImageShape], nn.Module]


def first_pass(network: nn.Module, build: Build, settings: "Settings", num_classes: int, shape: ImageShape) -> None:
    """Evaluate the network on two images of zeros, and store its classifier; nothing else about it changes.

    Args:
        network: The network.
        build: Builds the network again for images of another size.
        settings: The settings of the run.
        num_classes: Number of classes.
        shape: Shape of the images of the data.

    Raises:
        UserError: If the network does not accept the images, with a size that it accepts if the data set has the option
            ``image_size``, or does not return a logit for each image and class.
    """
    name = settings.model["name"]
    try:
        with undisturbed(network):
            answer = note_classifier(network.eval(), torch.zeros(2, *shape), num_classes)
    except Exception as error:  # a network may raise anything
        size = _size_that_fits(build, shape) if "image_size" in settings.dataset else None
        advice = "" if size is None else f"dataset.image_size={size}, or "
        raise UserError(
            f"model={name} cannot take images of {shape[1]}x{shape[2]} with {shape[0]} channels "
            f"({reason_of(error)}): choose {advice}another model."
        ) from error
    check_answer(answer, 2, num_classes, name, "")


def check_answer(answer: object, images: int, num_classes: int, name: str, when: str) -> None:
    """Refuse a network whose output is not a tensor (images, num_classes).

    Args:
        answer: The output.
        images: Number of images.
        num_classes: Number of classes.
        name: Name of the model, for the error message.
        when: A part of the error message, such as " in training".

    Raises:
        UserError: If it is not.
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
    """Return the smallest of ``SIZES`` whose images the network accepts, tried on the meta device; ``None`` if none."""
    for size in SIZES:
        try:
            with torch.device("meta"), torch.no_grad():
                other = (shape[0], size, size)
                build(other).eval()(torch.zeros(2, *other))
        except Exception:
            continue
        return size
    return None
