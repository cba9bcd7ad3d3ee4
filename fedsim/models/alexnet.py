"""``model=alexnet``: FedBN's network for Office-Caltech-10 and DomainNet (arXiv 2102.07623), AlexNet with BatchNorm."""

import torch
from torch import nn

from fedsim.models.memory_format import fast_layout


class AlexNet(nn.Module):
    """Five convolutions and two hidden linear layers, each followed by BatchNorm, and a linear head; no dropout.

    Takes images (N, channels, height, width) of at least 63x63 pixels, below which the last pooling has no input,
    returns logits (N, num_classes). The features are pooled to 6x6 for all sizes; FedBN's images are 256x256. With
    ``linear_norm=False`` the linear layers have no BatchNorm, which needs more than two images.
    """

    def __init__(
        self, num_classes: int = 10, image_shape: tuple[int, int, int] = (3, 256, 256), *, linear_norm: bool = True
    ) -> None:
        super().__init__()
        channels, _, _ = image_shape
        norm: type[nn.Module] = nn.BatchNorm1d if linear_norm else nn.Identity
        self.features = nn.Sequential(
            *(nn.Conv2d(channels, 64, 11, stride=4, padding=2), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.BatchNorm2d(192), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.BatchNorm2d(384), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.BatchNorm2d(256), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.BatchNorm2d(256), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.AdaptiveAvgPool2d(6), nn.Flatten()),
            *(nn.Linear(256 * 6 * 6, 4096), norm(4096), nn.ReLU()),
            *(nn.Linear(4096, 4096), norm(4096), nn.ReLU()),
        )
        self.head = nn.Linear(4096, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(fast_layout(images)))
        return logits
