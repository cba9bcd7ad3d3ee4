"""The images and labels that a client half works on."""

from dataclasses import dataclass

import torch

from datasets.transforms import PLUS_MINUS_ONE, Transform

EVALUATION_BATCH = 512


def evaluation_batches(examples: int) -> list[torch.Tensor]:
    """Indices of all examples in as few batches as possible, of sizes that differ by one at most.

    Every n-th example is in one batch, so that a batch of a set that is sorted by class has images of all classes: what
    is normalized by the batch depends on that.
    """
    batches = -(-examples // EVALUATION_BATCH)
    return [torch.arange(first, examples, batches) for first in range(batches)]


def training_batches(order: torch.Tensor, batch_size: int) -> list[torch.Tensor]:
    """Return the batches of one pass over the images in that order; a last batch of a single image is left out.

    BatchNorm over a linear layer cannot estimate a variance from one image. The rule holds for every norm, so that
    all of them see the same images; it does not apply where one image is the batch size or all there is.
    """
    batches = list(order.split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1 and batch_size > 1:
        batches.pop()
    return batches


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
        """The normalized images, float32, and their labels; augmented by draws of ``generator`` where one is given."""
        return self.transform(self.images[indices], generator), self.labels[indices]

    def to(self, device: torch.device) -> "Examples":
        return Examples(self.images.to(device), self.labels.to(device), self.transform)
