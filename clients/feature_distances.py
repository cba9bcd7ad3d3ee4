"""FRAug's distances of two sets of features, and how certain a classifier is of them."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch.nn import functional as F

Measure = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
KERNELS, FACTOR = 5, 2.0
"""Number of Gaussian kernels, and the ratio of the bandwidths of each two successive ones."""
SMOOTHING, FLOOR = 0.1, 1e-12
"""Label smoothing of ``non_saturating``, and what keeps its logarithm possible."""


def mmd(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    r"""Return the squared maximum mean discrepancy (Gretton et al., JMLR 2012) of two sets (N, features), biased.

    The kernel is a sum of five Gaussians, :math:`\sum_i \exp(-\lVert a - b \rVert^2 / (2^i s))` with i from -2 to 2,
    where s is the mean squared distance of each two of the 2 N rows, which gets no gradient.
    """
    both = torch.cat([one, other])
    both = both - both.mean(0).detach()  # changes no distance, and keeps digits in what follows
    squares = both.square().sum(1)
    distances = (squares[:, None] + squares - 2 * both @ both.T).clamp(min=0)
    pairs = len(both) * (len(both) - 1)
    mean = (distances.detach().sum() / pairs).clamp(min=torch.finfo(distances.dtype).tiny)
    widths = [mean * FACTOR ** (place - KERNELS // 2) for place in range(KERNELS)]
    kernel = torch.stack([torch.exp(-distances / width) for width in widths]).sum(0)
    n = len(one)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - kernel[:n, n:].mean() - kernel[n:, :n].mean()


def mean_cov(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the mean squared difference of the means of two sets (N, features), plus that of their covariances."""
    means = F.mse_loss(one.mean(0), other.mean(0))
    return means + F.mse_loss(torch.cov(one.T), torch.cov(other.T))


DISTANCES: Mapping[str, Measure] = MappingProxyType(
    {"l1": F.l1_loss, "l2": F.mse_loss, "mean_cov": mean_cov, "mmd": mmd}
)
OF_SETS = ("mean_cov", "mmd")
"""The distances of sets, whose rows do not belong together in pairs."""


def certainty(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean negative entropy of predictions (N, classes), in nats, whatever the labels (N,) are."""
    return (logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()


def non_saturating(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    r"""Return :math:`-\sum_c t_c \log(1 - p_c)`, a mean over rows, which grows with the probability of the label.

    t are the labels (N,) as one-hot vectors with a label smoothing of 0.1, and p the predictions (N, classes).
    """
    targets = F.one_hot(labels, logits.shape[1]).to(logits) * (1 - SMOOTHING) + SMOOTHING / logits.shape[1]
    return -(targets * torch.log(1 - logits.softmax(1) + FLOOR)).sum(1).mean()


TRANSFORM_LOSSES: Mapping[str, Measure] = MappingProxyType({"entropy": certainty, "non_saturating": non_saturating})
