"""``tta=alpha_bn``: interpolation of running statistics and those of the test batch (You et al. 2021, arXiv
2110.04065)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.core.errors import UserError
from fedsim.norms.replace import activated
from fedsim.norms.statistics import batch_norms
from fedsim.tta.adaptation import Adaptation, Batches, check_batch_size, check_running_statistics


class AlphaBN(Adaptation):
    r"""Every BatchNorm normalizes by

    .. math:: \mu = (1 - a) \mu_s + a \mu_t, \qquad \sigma^2 = (1 - a) \sigma_s^2 + a \sigma_t^2

    with the running statistics s and the biased ones t of the test batch. ``alpha``, a, is the weight of the *test
    batch*, as in the code of mariodoebler/test-time-adaptation; the paper's alpha is that of the running statistics:
    0.9 there is 0.1 here.

    Raises:
        UserError: If ``alpha`` is not in [0, 1], or ``batch_size`` is below 2.
    """

    def __init__(self, alpha: float, batch_size: int) -> None:
        if not 0 <= alpha <= 1:
            raise UserError(f"tta.alpha={alpha} is not possible: choose a number from 0 to 1.")
        check_batch_size(batch_size)
        self.alpha, self.batch_size = alpha, batch_size

    def check(self, model: nn.Module) -> None:
        check_running_statistics(model, "alpha_bn")

    @contextmanager
    def adapting(self, model: nn.Module, source: Batches) -> Iterator[None]:
        layers = [layer for layer in batch_norms(model) if layer.running_mean is not None]
        for layer in layers:
            layer.forward = _mixing(layer, self.alpha)  # type: ignore[assignment, method-assign]
        try:
            yield
        finally:
            for layer in layers:
                del layer.forward


def _mixing(layer: _BatchNorm, alpha: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(input: torch.Tensor) -> torch.Tensor:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        others = [axis for axis in range(input.dim()) if axis != 1]
        variance, mean = torch.var_mean(input, dim=others, correction=0)
        normalized = F.batch_norm(
            input,
            torch.lerp(layer.running_mean, mean, alpha),
            torch.lerp(layer.running_var, variance, alpha),
            layer.weight,
            layer.bias,
            eps=layer.eps,
        )
        return activated(layer, normalized)

    return forward
