"""BatchNorm by statistics that are put together, against torch's own on the whole batch."""

import pytest
import timm.layers
import torch
from torch import nn

from fedsim.norms.synchronized import MEAN, VARIANCE, synchronized


@pytest.mark.parametrize("layer", [nn.BatchNorm2d, timm.layers.BatchNormAct2d])
@pytest.mark.parametrize("affine", [True, False])
def test_the_layer_computes_what_it_computes_of_the_whole_batch(layer: type[nn.BatchNorm2d], affine: bool) -> None:
    torch.manual_seed(0)
    norm = layer(4, affine=affine).double()
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    model = nn.Sequential(norm)
    images = torch.randn(8, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(8, 4, 3, 3, dtype=torch.float64)
    mean, variance = images.detach().mean((0, 2, 3)), images.detach().var((0, 2, 3), correction=0)
    with synchronized(model, {"0" + MEAN: mean, "0" + VARIANCE: variance}) as own:
        common = model(images)
    torch.testing.assert_close(own["0" + MEAN].detach(), mean)
    torch.testing.assert_close(own["0" + VARIANCE].detach(), variance)
    torch.testing.assert_close(common, model.train()(images))
    # With constant statistics the gradient passes the scale and the activation alone.
    (given,) = torch.autograd.grad((common * weights).sum(), images)
    scale = torch.rsqrt(variance + norm.eps) * (norm.weight.detach() if affine else 1)
    passed = (common.detach() > 0) if layer is timm.layers.BatchNormAct2d else torch.ones_like(weights)
    torch.testing.assert_close(given, weights * passed * scale[:, None, None])
