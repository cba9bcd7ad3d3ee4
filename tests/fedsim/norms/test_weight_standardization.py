"""Weight Standardization against its definition in float64 and against timm's layer."""

import numpy as np
import pytest
import torch
from timm.layers import StdConv2d
from torch import nn
from torchvision.models import resnet18

from fedsim.core.errors import UserError
from fedsim.models import CNN6
from fedsim.norms import WSConv2d, norm_layers, use_norm, use_ws, use_ws_group_norm

CONVOLUTIONS = [
    nn.Conv2d(4, 6, 3, padding=1),
    nn.Conv2d(4, 8, (1, 3), stride=2, groups=2, bias=False, padding_mode="circular", padding=(0, 1)),
]


@pytest.mark.parametrize("conv", CONVOLUTIONS)
def test_the_weights_have_mean_zero_and_deviation_one(conv: nn.Conv2d) -> None:
    layer = WSConv2d.like(conv)
    weight = conv.weight.detach().numpy().astype(np.float64)
    mean = weight.mean(axis=(1, 2, 3), keepdims=True)
    expected = (weight - mean) / np.sqrt(weight.var(axis=(1, 2, 3), ddof=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(layer.standardized_weight().detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    input = torch.randn((2, 4, 9, 9), generator=torch.Generator().manual_seed(0))
    by_hand = conv._conv_forward(input, torch.from_numpy(expected).float(), conv.bias)
    torch.testing.assert_close(layer(input), by_hand, rtol=1e-4, atol=1e-5)


def test_it_is_timms_but_for_the_unbiased_variance() -> None:
    ours = WSConv2d.like(nn.Conv2d(8, 5, 3, padding=1), eps=1e-12)
    theirs = StdConv2d(8, 5, 3, padding=1, bias=True, eps=1e-12)
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn((2, 8, 6, 6), generator=torch.Generator().manual_seed(0))
    assert ours.bias is not None
    shift = ours.bias.detach().view(1, -1, 1, 1)
    fan_in = 8 * 9
    torch.testing.assert_close(
        (ours(images) - shift) * (fan_in / (fan_in - 1)) ** 0.5, theirs(images) - shift, rtol=1e-4, atol=1e-5
    )


def test_gradients_reach_the_weights_through_the_standardization() -> None:
    layer = WSConv2d.like(nn.Conv2d(2, 3, 3)).double()
    images = torch.randn((1, 2, 4, 4), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(
        lambda weight: torch.func.functional_call(layer, {"weight": weight}, (images,)), (layer.weight,)
    )


def test_alone_it_leaves_no_norm_and_with_groups_every_norm_is_a_group_norm() -> None:
    alone = use_ws(resnet18(weights=None))
    assert not [layer for layer in alone.modules() if isinstance(layer, norm_layers())]
    together = use_ws_group_norm(resnet18(weights=None), groups=16)
    norms = [layer for layer in together.modules() if isinstance(layer, norm_layers())]
    assert len(norms) == 20
    assert all(isinstance(layer, nn.GroupNorm) and layer.num_groups == 16 for layer in norms)
    for model in (alone, together):
        assert all(isinstance(layer, WSConv2d) for layer in model.modules() if isinstance(layer, nn.Conv2d))


def test_linear_layers_and_initial_weights_are_kept() -> None:
    plain = CNN6(10)
    weights = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    standardized = use_ws(plain).state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in standardized.items())


def test_what_cannot_be_standardized_is_refused() -> None:
    with pytest.raises(UserError, match="fan-in of 1"):
        use_ws(nn.Sequential(nn.Conv2d(4, 4, 1, groups=4)))
    with pytest.raises(UserError, match=r"^norm\.eps=-1 is not possible"):
        use_ws(nn.Sequential(nn.Conv2d(4, 4, 1)), eps=-1)


def test_fedws_is_weight_standardization_to_a_small_deviation_with_two_groups() -> None:
    """A block of FedWSQ's network with its formulas: deviations plus 1e-5, times 1e-3, GroupNorm of two groups."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)).double()
    images = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(1)).double()
    weight = plain[0].weight.detach().clone().requires_grad_()
    rows = weight.flatten(1) - weight.flatten(1).mean(1, keepdim=True)
    deviation = torch.sqrt((rows**2).sum(1) / 26) + 1e-5
    scaled = (1e-3 * rows / deviation[:, None]).view(weight.shape)
    groups = nn.functional.conv2d(images, scaled, padding=1).view(2, 2, -1)
    centred = groups - groups.mean(2, keepdim=True)
    expected = (centred / torch.sqrt(centred.square().mean(2, keepdim=True) + 1e-5)).view(2, 8, 5, 5)
    dy = torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(2)).double()
    expected.backward(dy)

    model = use_ws_group_norm(plain, groups=2, eps=1e-10, rho=1e-3).double()
    output = model(images)
    output.backward(dy)
    tolerance = 1e-5 / deviation.min().item()
    torch.testing.assert_close(output, expected, rtol=2 * tolerance, atol=2 * tolerance)
    assert weight.grad is not None
    torch.testing.assert_close(model[0].weight.grad, weight.grad, rtol=10 * tolerance, atol=1e-3 * tolerance + 1e-4)
    assert tolerance < 2e-4
    loud = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)).double()
    loud.load_state_dict({"0.weight": weight.detach()}, strict=False)
    loud = use_ws_group_norm(loud, groups=2, eps=1e-10).double()
    # With deviations of 1 the GroupNorm's eps counts for nothing: that is another network.
    assert (loud(images) - expected).abs().max() > 0.1


@pytest.mark.parametrize("norm", ["ws", "ws_gn"])
def test_a_deviation_of_nothing_is_refused(norm: str) -> None:
    with pytest.raises(UserError, match=r"^norm\.rho=0 is not possible: choose a number above 0\.$"):
        use_norm(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), norm, rho=0)
