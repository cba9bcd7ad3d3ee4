"""``model=cnn_small``: a network small enough that two cores run a whole federation of it in about a minute."""

import torch
from torch import nn

from fedsim.models.layout import fast_layout


class CNNSmall(nn.Module):
    """Three 3x3 convolutions of 32, 64 and 64 channels, each with BatchNorm, and one linear layer.

    Takes images (N, 3, 28, 28), returns logits (N, num_classes).
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Flatten(),
        )
        self.head = nn.Linear(64 * 3 * 3, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(fast_layout(images)))
        return logits
