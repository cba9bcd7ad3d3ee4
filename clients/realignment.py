"""FedLoGe's GLA-FR, global and local adaptive feature realignment: new lengths for the rows of trained classifiers."""

import torch


def rescaled(weight: torch.Tensor, length: float) -> torch.Tensor:
    r"""Return a (classes, features) weight with rows of one norm, :math:`\text{length} \, w_c / \lVert w_c \rVert`.

    The rows of classes with few images have small norms after training, so that these classes are rarely predicted.
    """
    scaled: torch.Tensor = weight * (
        length / weight.norm(dim=1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
    )
    return scaled


def with_lengths_of(weight: torch.Tensor, personal: torch.Tensor) -> torch.Tensor:
    r"""Return the shared classifier's rows times the norms of the personal rows, :math:`\lVert l_c \rVert w_c`."""
    scaled: torch.Tensor = weight * personal.norm(dim=1, keepdim=True)
    return scaled
