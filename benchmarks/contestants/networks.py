"""The network of a case, the same class for every contestant."""

from pkgutil import resolve_name

import torch
from torch import nn

from benchmarks.contestants.cases import CLASSES, IMAGE_SHAPE, Task


class OneLayer(nn.Module):
    """One linear layer: what a round costs beside training."""

    def __init__(self, num_classes: int = CLASSES, image_shape: tuple[int, int, int] = IMAGE_SHAPE) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.features = nn.Flatten()
        self.head = nn.Linear(channels * height * width, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(images))
        return logits


def network_of(task: Task) -> nn.Module:
    torch.manual_seed(task.seed)
    network = resolve_name(task.what.network)(num_classes=CLASSES, image_shape=IMAGE_SHAPE)
    assert isinstance(network, nn.Module)
    return network
