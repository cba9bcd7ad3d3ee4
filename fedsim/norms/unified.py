"""``norm=unified``: Unified Normalization (Yang et al., ACM Multimedia 2022, arXiv 2208.01313)."""

import torch
from torch import nn

from fedsim.norms.checks import check_count, check_positive, check_share
from fedsim.norms.mean_square import MeanSquareFunction
from fedsim.norms.power import WARMUP
from fedsim.norms.replace import channels_of, eps_of, keep_affine
from fedsim.norms.shapes import all_but_channels, per_channel
from fedsim.norms.tokens import replace_norms


class UnifiedNorm(nn.Module):
    r"""Divides each channel by the root of the geometric mean of the last batches' mean squares.

    With the mean :math:`\psi^2_i` of :math:`x^2` over batch i and its pixels, and a window of M batches,

    .. math:: y = \gamma z + \beta, \quad z = x / \sqrt{v + \epsilon}, \quad
        v = \Big(\prod_{j = i - M + 1}^{i} \psi^2_j\Big)^{1/M}

    but :math:`v = \psi^2_i` while i < ``warmup``, while :math:`i \le M`, and for an outlier. With ``outlier_filter``, a
    batch from number max(``warmup``, M + 1) on is an outlier if, in any channel, the arithmetic mean of the window with
    it exceeds the geometric mean by more than M times the variance of the roots of the whole window before it. (With a
    shorter warm-up than the window, which the authors do not have, there is no whole window before.) Its slot in the
    window then gets the running mean :math:`\bar v`, which becomes :math:`m \bar v + (1 - m) v` after every batch, and
    replaces v at evaluation. Backward, with

    .. math:: r = \sqrt{(v + \epsilon) / (\bar v + \epsilon)} \in [1/5, 5], \quad g = r \gamma \, dy, \quad
        dx = (g - c z) / \sqrt{v + \epsilon}, \quad d\gamma = \sum r \, dy \, z

    with the :math:`\bar v` before the batch. r is 1 for the first max(``warmup``, ``ratio_after``) batches and for an
    outlier. c is a running mean of the mean over a window of mean(g z), or while :math:`v = \psi^2_i` of mean(g z)
    itself, including this batch; for an outlier c is its own mean(g z), which makes the gradient the derivative, and
    the window gets the running mean instead.

    Takes (N, C, H, W) or (N, C). Over clients the windows are averaged entry by entry, since their order does not
    matter, and the running means like those of BatchNorm; the two counters take the maximum.
    """

    running_var: torch.Tensor
    ema_gz: torch.Tensor
    window_mean_square: torch.Tensor
    window_gz: torch.Tensor
    num_batches_tracked: torch.Tensor
    num_batches_skipped: torch.Tensor

    def __init__(
        self,
        channels: int,
        window: int = 4,
        warmup: int = WARMUP,
        outlier_filter: bool = True,
        ratio_after: int = 0,
        momentum: float = 0.9,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.window, self.warmup, self.ratio_after = window, warmup, ratio_after
        self.outlier_filter, self.momentum, self.eps = outlier_filter, momentum, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("ema_gz", torch.zeros(channels))
        self.register_buffer("window_mean_square", torch.zeros(window, channels))
        self.register_buffer("window_gz", torch.zeros(window, channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))
        self.register_buffer("num_batches_skipped", torch.tensor(0))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training:
            scale = self.weight * torch.rsqrt(self.running_var + self.eps)
            return input * per_channel(scale, input) + per_channel(self.bias, input)
        with torch.no_grad():
            mean_square = input.square().mean(all_but_channels(input))
            # As tensors, since Python branches would have to wait for a GPU.
            self.num_batches_tracked += 1
            batch = self.num_batches_tracked
            slot = (batch % self.window).view(1)
            skipped = self._enter(mean_square, batch, slot)
            alone = skipped | (batch <= self.window) | (batch < self.warmup)
            square = torch.where(alone, mean_square, _geometric_mean(self.window_mean_square))
            ratio = ((square + self.eps) / (self.running_var + self.eps)).sqrt().clamp(1 / 5, 5)
            ratio = torch.where(skipped | (batch <= max(self.warmup, self.ratio_after)), torch.ones_like(ratio), ratio)
            self.running_var.copy_(torch.lerp(square, self.running_var, self.momentum))
            scale = torch.rsqrt(square + self.eps)

        def correction(mean_gz: torch.Tensor) -> torch.Tensor:
            self.window_gz.index_copy_(0, slot, torch.where(skipped, self.ema_gz, mean_gz)[None])
            mean = torch.where(alone, mean_gz, self.window_gz.mean(0))
            self.ema_gz.copy_(torch.lerp(mean, self.ema_gz, self.momentum))
            return torch.where(skipped, mean_gz, self.ema_gz)

        output: torch.Tensor = MeanSquareFunction.apply(input, self.weight, self.bias, scale, scale, ratio, correction)
        return output

    def _enter(self, mean_square: torch.Tensor, batch: torch.Tensor, slot: torch.Tensor) -> torch.Tensor:
        """Write the batch, or for an outlier the running mean, to the window; return whether it is an outlier."""
        window = self.window_mean_square
        variance = window.sqrt().var()
        window.index_copy_(0, slot, mean_square[None])
        if not self.outlier_filter:
            return torch.zeros_like(batch, dtype=torch.bool)
        excess = window.mean(0) - _geometric_mean(window)
        # Slots that no batch has filled are zero, beside which every batch would be an outlier.
        skipped = (batch >= max(self.warmup, self.window + 1)) & (excess > variance * self.window).any()
        window.index_copy_(0, slot, torch.where(skipped, self.running_var, mean_square)[None])
        self.num_batches_skipped += skipped
        return skipped

    def extra_repr(self) -> str:
        return (
            f"{len(self.weight)}, window={self.window}, warmup={self.warmup}, outlier_filter={self.outlier_filter}, "
            f"ratio_after={self.ratio_after}, momentum={self.momentum}, eps={self.eps}"
        )


def _geometric_mean(window: torch.Tensor) -> torch.Tensor:
    return window.log().mean(0).exp()


def use_unified_norm(
    model: nn.Module,
    window: int = 4,
    warmup: int = WARMUP,
    outlier_filter: bool = True,
    ratio_after: int = 0,
    momentum: float = 0.9,
    eps: float | None = None,
) -> nn.Module:
    """Replace every BatchNorm or LayerNorm of C channels by ``UnifiedNorm(C)``, by default with the layer's ``eps``.

    The authors' code has a warm-up of 4000 batches, too long for a federated run (``power.WARMUP``), and with a shorter
    one uses r only after 1000 batches: ``ratio_after=1000``.

    Raises:
        UserError: If an option is out of its range, or the network has neither.
    """
    check_count("window", window, least=2)  # the geometric mean of one batch is the batch itself
    check_count("warmup", warmup, least=0)
    check_count("ratio_after", ratio_after, least=0)
    check_share("momentum", momentum)
    check_positive("eps", eps)

    def make(layer: nn.Module) -> nn.Module:
        options = (window, warmup, outlier_filter, ratio_after, momentum, eps_of(layer, eps))
        return keep_affine(layer, UnifiedNorm(channels_of(layer), *options))

    return replace_norms(model, "unified", make)
