"""The autograd function of PowerNorm and Unified Normalization.

It divides by a mean square that need not be the batch's own, and its backward pass is not the derivative.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from fedsim.norms.shapes import all_but_channels, per_channel

Correction = Callable[[torch.Tensor], torch.Tensor]


class MeanSquareFunction(torch.autograd.Function):
    r"""Forward :math:`z = s x` and :math:`y = \gamma z + \beta`; backward, with the gradient :math:`dy` of the loss,

    .. math:: dx = t \, (g - c z), \quad g = r \gamma \, dy, \quad d\gamma = r \sum dy \, z, \quad d\beta = \sum dy

    Takes x of shape (N, C, ...) and, each of shape (C,), gamma, beta, the scales s and t of the two passes and the
    ratio r; c is returned by ``correction``, which is called once in the backward pass with the mean of g z over all
    axes but the channels. (With s = t from the batch's own mean square, r = 1 and c = that mean it would be the
    derivative.)
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        scale: torch.Tensor,
        backward_scale: torch.Tensor,
        ratio: torch.Tensor,
        correction: Correction,
    ) -> torch.Tensor:
        z = input * per_channel(scale, input)
        ctx.save_for_backward(z, weight, backward_scale, ratio)
        ctx.correction = correction
        return z * per_channel(weight, input) + per_channel(bias, input)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        z, weight, scale, ratio = ctx.saved_tensors
        over = all_but_channels(z)
        gain = weight * ratio
        along_z = (grad * z).sum(over)
        correction = ctx.correction(gain * along_z / (z.numel() // len(gain)))
        grad_input = None
        if ctx.needs_input_grad[0]:
            grad_input = grad * per_channel(gain * scale, z) - z * per_channel(correction * scale, z)
        return grad_input, along_z * ratio, grad.sum(over), None, None, None, None
