"""From stored pixels to the input of the model: augmentation and normalization of whole batches.

An augmentation takes images (N, channels, height, width), as floats from 0 to 255 or normalized already, and the
client's own generator, and draws separately for each image. The draws are made on the CPU, so that they are the same
whatever device trains.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch.nn import functional as F

from fedsim.core.errors import UserError

Augmentation = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


@dataclass(frozen=True)
class Transform:
    """Normalization, ``(x / 255 - mean) / std`` per channel, with augmentations before and after it in training."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentations: tuple[Augmentation, ...] = ()
    """Augmentations of pixels from 0 to 255"""
    on_normalized: tuple[Augmentation, ...] = ()
    """Augmentations of normalized images, where zero is the mean colour"""

    @classmethod
    def of(
        cls,
        mean: Sequence[float],
        std: Sequence[float],
        augmentations: tuple[Augmentation, ...],
        on_normalized: tuple[Augmentation, ...] = (),
    ) -> "Transform":
        """Make a transform from options of a data set.

        Raises:
            UserError: If mean or deviation is not a list of one or of three numbers, or a deviation is not above 0.
        """
        for key, values in (("mean", mean), ("std", std)):
            if not isinstance(values, Sequence) or isinstance(values, str) or len(values) not in (1, 3):
                raise UserError(f"dataset.{key}={values} is not possible: choose a list of three numbers, or of one.")
            if not all(isinstance(value, int | float) and (key == "mean" or value > 0) for value in values):
                raise UserError(f"dataset.{key}={values} is not possible: choose numbers, deviations above 0.")
        return cls(tuple(mean), tuple(std), augmentations, on_normalized)

    def __call__(self, pixels: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Return uint8 pixels as float32, both (N, channels, height, width); without a generator not augmented."""
        images = _augmented(pixels.float(), self.augmentations, generator)
        scale, shift = self._scale_and_shift
        images = images.div_(scale.to(images.device)).sub_(shift.to(images.device))
        return _augmented(images, self.on_normalized, generator)

    @cached_property
    def _scale_and_shift(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What pixels are divided by, and what is then subtracted, both (channels, 1, 1); made once, not per batch."""
        mean, std = (torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in (self.mean, self.std))
        return (255 * std).float(), (mean / std).float()


def _augmented(
    images: torch.Tensor, augmentations: tuple[Augmentation, ...], generator: torch.Generator | None
) -> torch.Tensor:
    if generator is not None:
        for augment in augmentations:
            images = augment(images, generator)
    return images


PLUS_MINUS_ONE = Transform((0.5,), (0.5,))
"""FedBN's ``Normalize(0.5, 0.5)``"""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class HorizontalFlip:
    """Mirrors each image with probability one half."""

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        flip = torch.rand(len(images), generator=generator) < 0.5
        return torch.where(flip.view(-1, 1, 1, 1).to(images.device), images.flip(3), images)


@dataclass(frozen=True)
class RandomCrop:
    """Shifts each image by up to ``padding`` pixels each way and fills with black: torchvision's padded crop."""

    padding: int

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        count, _, height, width = images.shape
        shifts = torch.randint(2 * self.padding + 1, (count, 2), generator=generator).to(images.device)
        padded = F.pad(images, (self.padding,) * 4)
        rows = (shifts[:, :1] + torch.arange(height, device=images.device))[:, None, :, None]
        columns = (shifts[:, 1:] + torch.arange(width, device=images.device))[:, None, None, :]
        batch = torch.arange(count, device=images.device).view(-1, 1, 1, 1)
        channels = torch.arange(images.shape[1], device=images.device).view(1, -1, 1, 1)
        return padded[batch, channels, rows, columns]


@dataclass(frozen=True)
class Rotation:
    """Rotates each image about its centre by up to ``degrees`` either way: nearest pixel, black outside the image."""

    degrees: float

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        count, _, height, width = images.shape
        angles = torch.deg2rad((2 * torch.rand(count, generator=generator) - 1) * self.degrees)
        cosine, sine, zero = angles.cos(), angles.sin(), torch.zeros(count)
        # Coordinates run from -1 to 1 on both axes, so an image that is not square needs its aspect in the matrix.
        aspect = height / width
        rows = [torch.stack([cosine, -sine * aspect, zero], 1), torch.stack([sine / aspect, cosine, zero], 1)]
        grid = F.affine_grid(torch.stack(rows, 1).to(images.device), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, mode="nearest", padding_mode="zeros", align_corners=False)


@dataclass(frozen=True)
class Cutout:
    """Sets one square of ``size`` pixels a side to zero, cut off at the borders (DeVries & Taylor, arXiv 1708.04552).

    Each pixel is its centre with the same probability. As in the authors' code, a square of even size reaches one pixel
    further up and left, and zero is the mean colour if this follows normalization.
    """

    size: int

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        count, _, height, width = images.shape
        rows = self._covered(torch.randint(height, (count, 1), generator=generator), height)
        columns = self._covered(torch.randint(width, (count, 1), generator=generator), width)
        hole = (rows[:, :, None] & columns[:, None, :])[:, None]
        return images.masked_fill(hole.to(images.device), 0.0)

    def _covered(self, centres: torch.Tensor, length: int) -> torch.Tensor:
        """Return (N, length): which rows, or columns, the square of each image covers; the centres are (N, 1)."""
        first = centres - self.size // 2
        places = torch.arange(length)
        return (places >= first) & (places < first + self.size)
