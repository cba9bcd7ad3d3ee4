"""Balanced softmax (Ren et al., NeurIPS 2020, arXiv 2007.10740): cross entropy corrected for the sizes of classes."""

import math

import torch

from fedsim.core.errors import UserError


def check_gamma(gamma: float) -> None:
    """Check the option ``strategy.gamma``.

    Raises:
        UserError: If it is negative or not finite.
    """
    if not 0 <= gamma < math.inf:
        raise UserError(f"strategy.gamma={gamma} is not possible: choose a number of at least 0.")


def log_prior(labels: torch.Tensor, classes: int, gamma: float, least: int = 0) -> torch.Tensor:
    r"""Return what is added to the logits of a client's images in training, (classes,): :math:`\gamma \log n_c`.

    The cross entropy of the sum is
    :math:`-\log \big( n_y^\gamma e^{z_y} / \sum_c n_c^\gamma e^{z_c} \big)`. Without the addition, at evaluation, the
    logits then prefer no class because the client has many images of it. ``gamma=0`` is the plain cross entropy.

    Args:
        labels: The labels of all training images of the client, (images,).
        classes: The number of classes.
        gamma: :math:`\gamma`.
        least: What the number of images of a class counts at least. With 0 a class without images takes no part in the
            cross entropy of the others, as in the formula; with 1 it does, as if it had one.
    """
    if gamma == 0:
        return torch.zeros(classes, device=labels.device)
    counts = labels.bincount(minlength=classes).clamp(min=least)
    prior: torch.Tensor = gamma * counts.double().log()
    return prior
