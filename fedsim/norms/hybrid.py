"""``norm=hbn``: Hybrid Batch Normalisation (Chen, Xu, Wu & Kittler, ICML 2025, arXiv 2505.21877)."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from fedsim.norms.checks import check_positive
from fedsim.norms.moments import Statistics, moments
from fedsim.norms.replace import channels_of, eps_of, keep_affine, replace_batch_norm
from fedsim.norms.shapes import per_channel


class HybridBatchNorm(nn.Module):
    r"""Normalizes a batch in training by a learned mixture of the batch's statistics and the federation's.

    With mean :math:`\mu_B` and biased variance :math:`\sigma_B^2` of the batch and the global :math:`\mu_G` and
    :math:`\sigma_G^2` (``global_mean``, ``global_var``), per channel,

    .. math:: y = \gamma \, (x - \mu) / \sqrt{\sigma^2 + \epsilon} + \beta, \quad
        \mu = (1 - a) \mu_G + a \mu_B, \quad \sigma^2 = (1 - a) \sigma_G^2 + a \sigma_B^2, \quad
        a = \mathrm{sigmoid}(s)

    with the hybrid distribution factor s (``mix``), which starts at zero. Gradients flow through the batch's
    statistics. At evaluation :math:`\mu` and :math:`\sigma^2` are ``running_mean`` and ``running_var``. The layer
    changes neither pair itself: a strategy that gathers statistics does (``strategies/hbn.py``). Takes (N, C, ...).

    The formulas are those of the authors' code (Hongyao-Chen/HybridBN, 1c0e151), which replaces BatchNorm2d alone;
    here BatchNorm behind linear and one- or three-dimensional layers is replaced, too. Its buffers of a client's own
    statistics are no state here: ``mixtures_seen`` reads the mixture.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    global_mean: torch.Tensor
    global_var: torch.Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.mix = nn.Parameter(torch.zeros(channels))
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        for name in ("running", "global"):
            self.register_buffer(f"{name}_mean", torch.zeros(channels))
            self.register_buffer(f"{name}_var", torch.ones(channels))

    def mixture(self, input: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean (C,) and variance (C,) by which a batch is normalized in training."""
        batch, share = moments(input), self.mix.sigmoid()
        mean = (1 - share) * self.global_mean + share * batch["running_mean"]
        variance = (1 - share) * self.global_var + share * batch["running_var"]
        return mean, variance

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        mean, variance = self.mixture(input) if self.training else (self.running_mean, self.running_var)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (input - per_channel(mean, input)) * per_channel(scale, input) + per_channel(self.bias, input)

    def extra_repr(self) -> str:
        return f"{len(self.mix)}, eps={self.eps}"


def hybrid_layers(model: nn.Module) -> dict[str, HybridBatchNorm]:
    """Return the hybrid layers of the model under all of their names."""
    modules = model.named_modules(remove_duplicate=False)
    return {name: layer for name, layer in modules if isinstance(layer, HybridBatchNorm)}


@contextmanager
def mixtures_seen(model: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """Let hybrid layers normalize as in training inside the block, and everything else as at evaluation.

    Yields:
        A dictionary with the means and variances by which the layers normalized the last batch, under the names of the
        entries ``running_mean`` and ``running_var``.
    """
    seen: Statistics = {}
    modes = [(module, module.training) for module in model.modules()]
    model.eval()  # dropout must not affect the statistics
    with ExitStack() as measuring:
        for name, layer in hybrid_layers(model).items():
            layer.train()

            def see(layer: nn.Module, args: tuple[torch.Tensor, ...], name: str = name) -> None:
                assert isinstance(layer, HybridBatchNorm)
                with torch.no_grad():
                    mean, variance = layer.mixture(args[0])
                prefix = f"{name}." if name else ""
                seen[f"{prefix}running_mean"], seen[f"{prefix}running_var"] = mean, variance

            measuring.callback(layer.register_forward_pre_hook(see).remove)
        try:
            yield seen
        finally:
            for module, training in modes:
                module.training = training


def use_hybrid_batch_norm(model: nn.Module, eps: float | None = None) -> nn.Module:
    """Replace every BatchNorm of C channels by ``HybridBatchNorm(C)``, by default with the ``eps`` of the BatchNorm.

    Raises:
        UserError: If the network has no BatchNorm or ``eps`` is out of its range.
    """
    check_positive("eps", eps)
    return replace_batch_norm(
        model, "hbn", lambda layer: keep_affine(layer, HybridBatchNorm(channels_of(layer), eps_of(layer, eps)))
    )
