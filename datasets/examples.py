"""Images and labels as a client uses them, and their batches."""

from dataclasses import dataclass

import torch

from datasets.transforms import PLUS_MINUS_ONE, Transform

EVALUATION_BATCH = 512


def evaluation_batches(examples: int, most: int = EVALUATION_BATCH) -> list[torch.Tensor]:
    """Return the indices of all examples in as few batches as possible, whose sizes differ by at most one.

    With n batches, each has every n-th example. So every batch has images of all classes even if the set is sorted by
    class; this matters for layers that normalize by statistics of the batch. Batches of ``most`` images are parts of
    these batches, made in the same way.
    """
    return [
        batch
        for whole in _every_nth(torch.arange(examples), EVALUATION_BATCH)
        for batch in _every_nth(whole, min(most, EVALUATION_BATCH))
    ]


def _every_nth(indices: torch.Tensor, most: int) -> list[torch.Tensor]:
    batches = -(-len(indices) // most)
    return [indices[first::batches] for first in range(batches)]


def images_of_pass(images: int, batch_size: int, *, drop_last: bool = False) -> int:
    """Return how many of a client's images one pass trains on.

    A last batch of a single image is left out, with ``drop_last`` any that is smaller than the others; never the only
    one. BatchNorm after a linear layer cannot estimate a variance from one image, and estimates it badly from a few.
    The rule holds for every norm, so that all of them are trained on the same images.
    """
    left = images % batch_size
    return images - left if images > batch_size and (drop_last or left == 1) else images


def batches_of_pass(images: int, batch_size: int, *, drop_last: bool = False) -> int:
    """Return how many batches ``training_batches`` makes of a client's images."""
    used = images_of_pass(images, batch_size, drop_last=drop_last)
    return max(1, -(-used // min(batch_size, max(1, images))))


def training_batches(order: torch.Tensor, batch_size: int, *, drop_last: bool = False) -> list[torch.Tensor]:
    """Return the batches of one pass over the images in this order, without what ``images_of_pass`` leaves out."""
    used = order[: images_of_pass(len(order), batch_size, drop_last=drop_last)]
    return list(used.split(min(batch_size, max(1, len(order)))))  # torch knows no numbers above 2^63


@dataclass(frozen=True)
class Examples:
    """Images and labels as tensors on one device, transformed batch by batch."""

    images: torch.Tensor
    """uint8 (N, channels, height, width)"""
    labels: torch.Tensor
    """int64 (N,)"""
    transform: Transform = PLUS_MINUS_ONE

    def __len__(self) -> int:
        return len(self.labels)

    def batch(
        self, indices: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the normalized images, float32, and their labels; with a ``generator`` the images are augmented."""
        chosen = self.of(indices)
        return self.transform(chosen.images, generator), chosen.labels

    def of(self, indices: torch.Tensor) -> "Examples":
        """Return the examples at these places, int64 (n,) on the same device, in this order."""
        # Not images[indices], which copies each pixel by itself and takes twenty times as long.
        return Examples(self.images.index_select(0, indices), self.labels.index_select(0, indices), self.transform)

    def to(self, device: torch.device) -> "Examples":
        return Examples(self.images.to(device), self.labels.to(device), self.transform)
