"""The images of CIFAR-10 that clients and tests get."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from datasets.examples import Examples
from datasets.transforms import Transform


class AsDoubles(Transform):
    def __call__(self, pixels: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        return pixels.double() / 127.5 - 1


def chosen(data: Any, count: int, classes: Sequence[int], part: str = "train") -> Examples:
    """The first images of these classes, as many of each as possible."""
    labels = data[f"{part}_labels"]
    places = [np.flatnonzero(labels == label) for label in classes]
    shares = [len(each) for each in np.array_split(np.arange(count), len(places))]
    picked = np.concatenate([each[:share] for each, share in zip(places, shares, strict=True)])
    return Examples(*tensors(data[f"{part}_images"][picked], labels[picked]), AsDoubles((0.5,), (0.5,)))


def tensors(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels)
