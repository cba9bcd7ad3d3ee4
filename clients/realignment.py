"""FedLoGe's GLA-FR, global and local adaptive feature realignment: new lengths for the rows of trained classifiers."""

import torch


def rescaled(weight: torch.Tensor, length: float) -> torch.Tensor:
    r"""Every row of (classes, features) with the same length, :math:`\text{length} \, w_c / \lVert w_c \rVert`.

    The rows of a classifier that saw few images of a class are short, so that the class is seldom chosen.
    """
    scaled: torch.Tensor = weight * (
        length / weight.norm(dim=1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
    )
    return scaled


def with_lengths_of(weight: torch.Tensor, personal: torch.Tensor) -> torch.Tensor:
    r"""The rows of the shared classifier times the lengths of a client's own, :math:`\lVert l_c \rVert w_c`."""
    scaled: torch.Tensor = weight * personal.norm(dim=1, keepdim=True)
    return scaled
