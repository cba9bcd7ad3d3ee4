"""Networks that FedWon's paper may have had in the place of ``model=alexnet``, of which it says no more than the name.

model._target_=results.office_caltech10.variants.Dropout
"""

import torch
from torch import nn

from fedsim.models.alexnet import AlexNet


class Dropout(AlexNet):
    """With dropout in front of both hidden linear layers, as torchvision's."""

    def __init__(
        self, num_classes: int = 10, image_shape: tuple[int, int, int] = (3, 256, 256), *, linear_norm: bool = True
    ) -> None:
        super().__init__(num_classes, image_shape, linear_norm=linear_norm)
        layers: list[nn.Module] = []
        for layer in self.features:
            layers += [nn.Dropout(0.5), layer] if isinstance(layer, nn.Linear) else [layer]
        self.features = nn.Sequential(*layers)


class HeInit(AlexNet):
    """With He's initialization of the hidden linear layers, and biases of zero."""

    def __init__(
        self, num_classes: int = 10, image_shape: tuple[int, int, int] = (3, 256, 256), *, linear_norm: bool = True
    ) -> None:
        super().__init__(num_classes, image_shape, linear_norm=linear_norm)
        for layer in self.features:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)


class ScaledImages(AlexNet):
    """With images of a mean near 0 and a variance near 1 instead of from 0 to 1."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward((images - 0.5) / 0.25)
