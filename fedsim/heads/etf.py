"""``head=etf``: a classifier that is never trained, with the largest possible angles between all classes (Yang et al.
2022, arXiv 2203.09081)."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from fedsim.core.errors import UserError
from fedsim.heads.linear import check_scale, replace_classifier


def simplex_frame(classes: int, features: int) -> torch.Tensor:
    r"""Return a simplex equiangular tight frame in a random orientation: unit vectors, (classes, features), float64.

    .. math:: M = \sqrt{C / (C - 1)} \; (I - 11^\top / C) \, U^\top

    so that :math:`m_i^\top m_j = -1 / (C - 1)` for each two classes. The paper's U has C orthonormal columns; the
    projection reduces their span to C - 1 dimensions, and only these are drawn here, so that C - 1 features are
    sufficient. They are drawn from torch's global generator.

    Raises:
        UserError: If there are fewer than 2 classes, or fewer than ``classes - 1`` features.
    """
    if not 2 <= classes <= features + 1:
        raise UserError(
            f"head=etf is not possible for {classes} classes and {features} features, which hold 2 to {features + 1} "
            "classes: choose another model, or another head."
        )
    orthonormal, triangle = torch.linalg.qr(torch.randn(features, classes - 1, dtype=torch.float64))
    orthonormal = orthonormal * triangle.diagonal().sign()  # a QR is unique once the diagonal is positive
    # Helmert's rows, an orthonormal basis of the complement of (1, ..., 1): k ones, then -k.
    count = torch.arange(1, classes, dtype=torch.float64)
    basis = torch.ones(classes - 1, classes, dtype=torch.float64).tril()
    basis[:, 1:] -= torch.diag(count)
    basis /= (count * (count + 1)).sqrt()[:, None]
    frame: torch.Tensor = math.sqrt(classes / (classes - 1)) * (orthonormal @ basis).T
    return frame


PROJECTIONS = ("classes", "features")


class ETFLinear(nn.Linear):
    r"""Logits are scaled cosines between the features and the fixed directions of a ``simplex_frame``.

    .. math:: z_c = s \, m_c^\top f / \lVert f \rVert

    The frame is a parameter without a gradient: it is stored with the model and not sent, since the server and all
    clients draw the same one. Takes (N, features), returns (N, classes); there is no bias. For the scale, which is a
    parameter with ``learnable=True``, see ``CosineLinear``. The paper trains with its own loss, the distance of
    :math:`m_y^\top f` from its target; here the loss is that of the method.

    Raises:
        UserError: As ``simplex_frame``, and if ``scale`` is not above 0.
    """

    scale: torch.Tensor | float

    def __init__(self, features: int, classes: int, scale: float = 16.0, learnable: bool = False) -> None:
        super().__init__(features, classes, bias=False)
        check_scale(scale)
        self.scale = nn.Parameter(torch.tensor(float(scale))) if learnable else scale
        with torch.no_grad():
            self.weight.copy_(simplex_frame(classes, features))
        self.weight.requires_grad_(False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.scale * F.linear(F.normalize(input, dim=-1), self.weight)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, scale={float(self.scale):g}"


class ProjectedETF(nn.Module):
    """A trained linear layer, (N, features) to (N, dimensions), and behind it an ``ETFLinear`` of that many features.

    FedETF's projection (Li et al., ICCV 2023, arXiv 2303.10058): features that end in a ReLU cannot have the angles of
    the frame, and projected ones can.
    """

    def __init__(self, features: int, dimensions: int, classes: int, scale: float, learnable: bool) -> None:
        super().__init__()
        self.projection = nn.Linear(features, dimensions)
        self.frame = ETFLinear(dimensions, classes, scale, learnable)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.frame(self.projection(input))
        return logits


def use_etf(model: nn.Module, scale: float = 16.0, learnable: bool = False, projection: str | None = None) -> nn.Module:
    """Replace the classifier by an ``ETFLinear``.

    Args:
        model: The network.
        scale: The scale of the cosines.
        learnable: Whether the scale is trained, from there on.
        projection: ``classes`` or ``features``: the number of dimensions of a ``ProjectedETF``; ``None`` for no
            projection.

    Raises:
        UserError: If the model has no classifier, there are too few features, or an option is out of its range.
    """
    if projection not in (None, *PROJECTIONS):
        raise UserError(f"head.projection={projection} is not known: choose {', '.join(PROJECTIONS)} or null.")

    def make(features: int, classes: int) -> nn.Module:
        if projection is None:
            return ETFLinear(features, classes, scale, learnable)
        return ProjectedETF(features, classes if projection == "classes" else features, classes, scale, learnable)

    return replace_classifier(model, "etf", make)
