"""``head=cosine``: normalized softmax (NormFace, Wang et al. 2017, arXiv 1704.06369; CosFace, Wang et al. 2018, arXiv
1801.09414, without its margin)."""

import torch
from torch import nn
from torch.nn import functional as F

from fedsim.heads.linear import check_scale, replace_classifier


class CosineLinear(nn.Linear):
    r"""Logits are scaled cosines between the features and one direction for each class.

    .. math:: z_c = s \, \frac{w_c^\top f}{\lVert w_c \rVert \lVert f \rVert}

    The norms of features and of a class's weights have no effect, so that logits cannot depend on the frequency of a
    class through them. Takes (N, features), returns (N, classes); there is no bias.

    The scale :math:`s` limits the confidence: the largest probability that images of all C classes can reach at the
    same time is :math:`1 / (1 + (C - 1) e^{-s C / (C - 1)})` (CosFace, section 3.3), which for the default of 16 is
    0.9999 with 905 classes. With ``learnable=True`` the scale is a parameter with this initial value.

    Raises:
        UserError: If ``scale`` is not above 0.
    """

    scale: torch.Tensor | float

    def __init__(self, features: int, classes: int, scale: float = 16.0, learnable: bool = False) -> None:
        super().__init__(features, classes, bias=False)
        check_scale(scale)
        self.scale = nn.Parameter(torch.tensor(float(scale))) if learnable else scale

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.scale * F.linear(F.normalize(input, dim=-1), F.normalize(self.weight, dim=-1))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, scale={float(self.scale):g}"


def use_cosine(model: nn.Module, scale: float = 16.0, learnable: bool = False) -> nn.Module:
    """Replace the classifier by a ``CosineLinear`` with newly drawn directions.

    Raises:
        UserError: If the model has no classifier, or the scale is not above 0.
    """
    return replace_classifier(
        model, "cosine", lambda features, classes: CosineLinear(features, classes, scale, learnable)
    )
