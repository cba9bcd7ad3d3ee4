"""Networks that make features, the inputs of a classifier, instead of taking images."""

import torch
from torch import nn
from torch.nn import functional as F


def latent_size(features: int, latent: int | None) -> int:
    """Return ``latent``, or half of the number of features, at least one, if it is ``None``."""
    return max(1, features // 2) if latent is None else latent


class FeatureGenerator(nn.Module):
    """Makes features of a class from noise: two linear layers, each with BatchNorm and ReLU.

    Takes noise (N, latent) and labels (N,), returns features (N, features), none of which is below zero. Labels enter
    as one-hot vectors beside the noise.
    """

    def __init__(self, features: int, latent: int, classes: int) -> None:
        super().__init__()
        self.latent, self.classes = latent, classes
        self.layers = nn.Sequential(
            *(nn.Linear(latent + classes, features), nn.BatchNorm1d(features), nn.ReLU()),
            *(nn.Linear(features, features), nn.BatchNorm1d(features), nn.ReLU()),
        )

    def forward(self, noise: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.layers(_with_labels(noise, labels, self.classes))
        return made


class FeatureTransform(nn.Module):
    """Adds to reference features what it makes of generated ones: two linear layers with BatchNorm, a ReLU between.

    Takes generated features (N, features), reference features of the same shape and labels (N,), returns (N, features).
    """

    def __init__(self, features: int, latent: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.layers = nn.Sequential(
            *(nn.Linear(features + classes, latent), nn.BatchNorm1d(latent), nn.ReLU()),
            *(nn.Linear(latent, features), nn.BatchNorm1d(features)),
        )

    def forward(self, generated: torch.Tensor, reference: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        moved: torch.Tensor = reference + self.layers(_with_labels(generated, labels, self.classes))
        return moved


def _with_labels(inputs: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    return torch.cat([inputs, F.one_hot(labels, classes).to(inputs)], dim=1)
