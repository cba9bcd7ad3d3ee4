"""``model=cnn_small``: a small network, with which two cores simulate a whole federation in about a minute."""

import torch
from torch import nn

from fedsim.models.memory_format import fast_layout


class CNNSmall(nn.Module):
    """Three 3x3 convolutions of 32, 64 and 64 channels, each with BatchNorm, and one linear layer.

    Takes images (N, *image_shape) of at least 8x8 pixels, returns logits (N, num_classes).
    """

    def __init__(self, num_classes: int = 10, image_shape: tuple[int, int, int] = (3, 28, 28)) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.features = nn.Sequential(
            *(nn.Conv2d(channels, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Flatten(),
        )
        self.head = nn.Linear(64 * (height // 8) * (width // 8), num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(fast_layout(images)))
        return logits
