"""``norm=powernorm``: Power Normalization (Shen et al., ICML 2020, arXiv 2003.07845)."""

import torch
from torch import nn

from fedsim.norms.checks import check_count, check_positive, check_share
from fedsim.norms.groups import groups_in
from fedsim.norms.mean_square import MeanSquareFunction
from fedsim.norms.replace import channels_of, eps_of, keep_affine
from fedsim.norms.shapes import all_but_channels, per_channel
from fedsim.norms.tokens import replace_norms

WARMUP = 100
"""Number of batches of the warm-up. The authors' 10,000 would be longer than whole federated runs: a client of the
default run trains on 480 batches. A hundred is ten times the memory of the running mean, 1 / (1 - 0.9) batches."""


class GroupScaling(nn.Module):
    r"""Divides each pixel by the root mean square of its groups of channels, without a learned scale.

    .. math:: y_g = x_g / \sqrt{\mathrm{mean}(x_g^2) + \epsilon}

    In transformers tokens take the place of pixels. Takes (N, C, ...) with C divisible by ``groups``.
    """

    def __init__(self, groups: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        grouped = input.unflatten(1, (self.groups, -1))
        scaled: torch.Tensor = grouped * torch.rsqrt(grouped.square().mean(dim=2, keepdim=True) + self.eps)
        return scaled.flatten(1, 2)

    def extra_repr(self) -> str:
        return f"groups={self.groups}, eps={self.eps}"


class PowerNorm(nn.Module):
    r"""Divides each channel by the root of a running mean square; neither a mean nor a variance is estimated.

    With the mean :math:`\psi^2` of :math:`x^2` over the batch and its pixels, at batch i of training

    .. math:: y = \gamma z + \beta, \quad z = x / \sqrt{\psi^2 + \epsilon} \;\; (i \le w), \quad
        z = x / \sqrt{\phi + \epsilon} \;\; (i > w)

    with the ``warmup`` w and the :math:`\phi` before this batch. After that :math:`\phi` becomes
    :math:`\phi + (\psi^2 - \phi) / i` while i < w, and then, in every batch,
    :math:`\alpha_f \phi + (1 - \alpha_f) \psi^2`. At evaluation :math:`z = x / \sqrt{\phi + \epsilon}`. Backward, with
    :math:`g = \gamma \, dy` and a :math:`\nu` that every backward pass updates,

    .. math:: \hat g = g - (1 - \alpha_b) \, \nu z, \quad \nu \leftarrow \nu + \mathrm{mean}(\hat g z), \quad
        dx = \hat g / \sqrt{\psi^2 + \epsilon}

    with the batch's own mean square during and after the warm-up. Takes (N, C, H, W) or (N, C). The running
    :math:`\phi` and :math:`\nu` (``ema_gz``) are averaged over clients like the statistics of BatchNorm; the counters
    of batches take the maximum, so that the warm-up of a federation ends when that of its largest client does.
    """

    phi: torch.Tensor
    ema_gz: torch.Tensor
    num_batches_tracked: torch.Tensor

    def __init__(
        self,
        channels: int,
        warmup: int = WARMUP,
        alpha_forward: float = 0.9,
        alpha_backward: float = 0.9,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.warmup, self.eps = warmup, eps
        self.alpha_forward, self.alpha_backward = alpha_forward, alpha_backward
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("phi", torch.ones(channels))
        self.register_buffer("ema_gz", torch.zeros(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training:
            scale = self.weight * torch.rsqrt(self.phi + self.eps)
            return input * per_channel(scale, input) + per_channel(self.bias, input)
        with torch.no_grad():
            mean_square = input.square().mean(all_but_channels(input))
            scale = torch.rsqrt(self._next_divisor(mean_square) + self.eps)
            backward_scale = torch.rsqrt(mean_square + self.eps)

        def correction(mean_gz: torch.Tensor) -> torch.Tensor:
            along_z = (1 - self.alpha_backward) * self.ema_gz
            self.ema_gz += mean_gz - along_z * mean_square * scale.square()  # the mean of z^2
            return along_z

        output: torch.Tensor = MeanSquareFunction.apply(
            input, self.weight, self.bias, scale, backward_scale, torch.ones_like(scale), correction
        )
        return output

    def _next_divisor(self, mean_square: torch.Tensor) -> torch.Tensor:
        """Return the mean square by which this batch is normalized; update phi by the batch's mean square."""
        # Without Python branches on the counter, which would have to wait for a GPU.
        self.num_batches_tracked += 1
        batch = self.num_batches_tracked
        divisor = torch.where(batch <= self.warmup, mean_square, self.phi)
        phi = torch.where(batch < self.warmup, self.phi + (mean_square - self.phi) / batch, self.phi)
        self.phi.copy_(torch.lerp(mean_square, phi, self.alpha_forward))
        return divisor

    def extra_repr(self) -> str:
        return (
            f"{len(self.weight)}, warmup={self.warmup}, alpha_forward={self.alpha_forward}, "
            f"alpha_backward={self.alpha_backward}, eps={self.eps}"
        )


def use_power_norm(
    model: nn.Module,
    warmup: int = WARMUP,
    alpha_forward: float = 0.9,
    alpha_backward: float = 0.9,
    eps: float | None = None,
    groups: int | None = None,
    channels_per_group: int | None = None,
) -> nn.Module:
    """Replace every BatchNorm or LayerNorm of C channels by ``PowerNorm(C)``, by default with the ``eps`` of the layer.

    With ``groups`` or ``channels_per_group`` there is a ``GroupScaling`` before it. The authors' code has this scaling,
    with all channels in one group (``groups=1``); the PowerNorm of the paper has not.

    Raises:
        UserError: As ``groups_in``, and if an option is out of its range or the network has neither.
    """
    check_count("warmup", warmup, least=0)
    check_share("alpha_forward", alpha_forward)
    check_share("alpha_backward", alpha_backward)
    check_positive("eps", eps)

    def make(layer: nn.Module) -> nn.Module:
        small = eps_of(layer, eps)
        norm = keep_affine(layer, PowerNorm(channels_of(layer), warmup, alpha_forward, alpha_backward, small))
        if groups is None and channels_per_group is None:
            return norm
        return nn.Sequential(GroupScaling(groups_in(layer, groups, channels_per_group), small), norm)

    return replace_norms(model, "powernorm", make)
