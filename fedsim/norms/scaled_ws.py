"""``norm=sws``: scaled weight standardization, the normalization-free layer of FedWon.

FedWon (Zhuang & Lyu, ICLR 2024, arXiv 2306.05879), Eq. 3; the layer goes back to NF-ResNets (Brock et al., ICLR 2021).
"""

from typing import Any

import torch
from torch import nn

from fedsim.norms.none import remove_norm
from fedsim.norms.options import check_fan_in, check_positive
from fedsim.norms.replace import copy_of, replace_layers

RELU_GAIN = 1.7139588594436646
"""sqrt(2 / (1 - 1/pi)) as NFNet's code has it: a ReLU shrinks the standard deviation of N(0, 1) by this factor."""


class ScaledWSConv2d(nn.Conv2d):
    r"""A convolution whose weights are standardized per output channel before each use.

    .. math:: \hat W_{i,j} = g_i \, \gamma \, (W_{i,j} - \mu_i) / \sqrt{\max(N \sigma_i^2, \epsilon)}

    with :math:`\mu_i` and the biased variance :math:`\sigma_i^2` over the fan-in
    :math:`N = C_{in} / groups \cdot k_h k_w` of output channel i, a constant :math:`\gamma` for the nonlinearity in
    front and a learnable gain :math:`g` of shape (C_out, 1, 1, 1) that starts at one. Shapes are those of
    ``nn.Conv2d``.
    """

    gain: nn.Parameter

    @classmethod
    def like(cls, conv: nn.Conv2d, gamma: float = RELU_GAIN, eps: float = 1e-4) -> "ScaledWSConv2d":
        """The standardized convolution of the same shape and the same initial weights, always with a bias.

        The bias takes the place of BatchNorm's beta, so it starts at zero where ``conv`` had none.
        """
        return copy_of(conv, cls, bias=True, gamma=gamma, eps=eps)

    def __init__(self, *args: Any, gamma: float = RELU_GAIN, eps: float = 1e-4, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gamma, self.eps = gamma, eps
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def standardized_weight(self) -> torch.Tensor:
        raw = self.weight  # read once, since a reparametrized weight is computed whenever it is read
        variance, mean = torch.var_mean(raw, dim=(1, 2, 3), correction=0, keepdim=True)
        fan_in = raw[0].numel()
        scale = torch.rsqrt(torch.clamp(variance * fan_in, min=self.eps)) * (self.gain * self.gamma)
        weight: torch.Tensor = (raw - mean) * scale
        return weight

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self._conv_forward(input, self.standardized_weight(), self.bias)
        return output

    def extra_repr(self) -> str:
        return f"{nn.Conv2d.extra_repr(self)}, gamma={self.gamma:.4f}, eps={self.eps}"


def use_scaled_ws(
    model: nn.Module, gamma: float = RELU_GAIN, eps: float = 1e-4, residual: str = "plain", alpha: float = 0.2
) -> nn.Module:
    """Removes every BatchNorm and standardizes every convolution; linear layers stay as they are.

    ``gamma`` stands at every convolution, as Eq. 3 has it. (Strictly it belongs to those whose input is a ReLU.)
    ``residual`` and ``alpha`` are those of ``remove_norm``; what FedWon does with residual blocks is not published.

    Errors: ``UserError`` for an option out of its range or a convolution with a fan-in of 1.
    """

    def make(layer: nn.Module) -> nn.Module:
        assert isinstance(layer, nn.Conv2d)
        check_fan_in("sws", layer)
        return layer if isinstance(layer, ScaledWSConv2d) else ScaledWSConv2d.like(layer, gamma, eps)

    check_positive("gamma", gamma)
    check_positive("eps", eps)
    return replace_layers(remove_norm(model, residual, alpha), (nn.Conv2d,), make)
