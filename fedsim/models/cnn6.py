"""``model=cnn6``: the six-layer network of FedBN's digits benchmark (Li et al., ICLR 2021, arXiv 2102.07623)."""

import torch
from torch import nn

from fedsim.models.layout import fast_layout


class CNN6(nn.Module):
    """Three 5x5 convolutions and three linear layers, a BatchNorm after each but the last: 14,219,210 parameters.

    Takes images (N, 3, 28, 28), returns logits (N, num_classes).
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 5, padding=2), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 64, 5, padding=2), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 128, 5, padding=2), nn.BatchNorm2d(128), nn.ReLU()),
            nn.Flatten(),
            *(nn.Linear(128 * 7 * 7, 2048), nn.BatchNorm1d(2048), nn.ReLU()),
            *(nn.Linear(2048, 512), nn.BatchNorm1d(512), nn.ReLU()),
        )
        self.head = nn.Linear(512, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(fast_layout(images)))
        return logits
