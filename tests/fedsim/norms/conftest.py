"""What the tests of layers with a backward pass of their own share."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pytest
import torch
from torch import nn

Arrays = tuple[np.ndarray, ...]
Step = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], Arrays]
Follow = Callable[[nn.Module, Step, Iterable[float], tuple[int, ...], Mapping[str, object]], None]


@pytest.fixture
def follow() -> Follow:
    """Trains a layer for some steps beside a reference: (x, dy, gamma, beta) to (y, dx, dgamma, dbeta), in float64."""

    def run(
        layer: nn.Module, step: Step, scales: Iterable[float], shape: tuple[int, ...], state: Mapping[str, object]
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        layer.double().train()
        channels = shape[1]
        with torch.no_grad():
            layer.weight.copy_(torch.linspace(-1.5, 2, channels))
            layer.bias.copy_(torch.linspace(1, -1, channels))
        spread = torch.linspace(0.5, 2, channels).view(1, -1, *(1,) * (len(shape) - 2))
        for scale in scales:
            input = (scale * spread * (torch.randn(shape, generator=generator) + 0.3)).double().requires_grad_()
            grad = torch.randn(shape, generator=generator).double() + 0.5 * input.detach() / scale
            output = layer(input)
            output.backward(grad)
            gamma, beta = layer.weight.detach().numpy(), layer.bias.detach().numpy()
            expected = step(input.detach().numpy(), grad.numpy(), gamma, beta)
            computed = (output.detach(), input.grad, layer.weight.grad, layer.bias.grad)
            for ours, theirs in zip(computed, expected, strict=True):
                np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-9, atol=1e-10)
            for name, value in state.items():
                np.testing.assert_allclose(getattr(layer, name).numpy(), np.asarray(value), rtol=1e-10, err_msg=name)
            layer.zero_grad()

    return run
