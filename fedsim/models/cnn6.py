"""``model=cnn6``: the six-layer network of FedBN's digits benchmark (Li et al., ICLR 2021, arXiv 2102.07623)."""

import torch
from torch import nn

from fedsim.core.errors import UserError
from fedsim.models.memory_format import fast_layout


class CNN6(nn.Module):
    """Three 5x5 convolutions and three linear layers, a BatchNorm after each but the last: 14,219,210 parameters.

    Takes images (N, *image_shape) of at least 4x4 pixels, returns logits (N, num_classes). The size of the first linear
    layer depends on that of the images; the published network takes 3x28x28. With ``pool=3`` the windows of the pooling
    are 3x3 and overlap, as in the network of M3SDA (Peng et al., ICCV 2019, arXiv 1812.01754), for 3x32x32. With
    ``linear_norm=False`` the linear layers have no BatchNorm, which needs more than two images.

    Raises:
        UserError: If ``pool`` is neither 2 nor 3.
    """

    def __init__(
        self,
        num_classes: int = 10,
        image_shape: tuple[int, int, int] = (3, 28, 28),
        *,
        pool: int = 2,
        linear_norm: bool = True,
    ) -> None:
        super().__init__()
        if pool not in (2, 3):
            raise UserError(f"model.pool={pool} is not possible: choose 2 or 3.")
        channels, height, width = image_shape
        norm: type[nn.Module] = nn.BatchNorm1d if linear_norm else nn.Identity
        padding = pool // 3  # of one pixel for windows that overlap, so that each pooling halves the size, rounded up
        rows, columns = ((size + 3 * padding) // 4 for size in (height, width))
        self.features = nn.Sequential(
            *(nn.Conv2d(channels, 64, 5, padding=2), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(pool, 2, padding)),
            *(nn.Conv2d(64, 64, 5, padding=2), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(pool, 2, padding)),
            *(nn.Conv2d(64, 128, 5, padding=2), nn.BatchNorm2d(128), nn.ReLU()),
            nn.Flatten(),
            *(nn.Linear(128 * rows * columns, 2048), norm(2048), nn.ReLU()),
            *(nn.Linear(2048, 512), norm(512), nn.ReLU()),
        )
        self.head = nn.Linear(512, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(fast_layout(images)))
        return logits
