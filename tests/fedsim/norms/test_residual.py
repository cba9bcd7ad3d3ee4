"""IBN-Net's layers and the scaled branches of normalization-free networks, against their definitions."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18, resnet50

from fedsim.core.errors import UserError
from fedsim.models import ResNet20
from fedsim.norms import (
    InstanceBatchNorm2d,
    ScaledResidual,
    ScaledWSConv2d,
    remove_norm,
    use_ibn_a,
    use_ibn_b,
    use_scaled_ws,
)
from fedsim.norms.ibn import NormalizedSum

IMAGES = torch.randn((3, 3, 32, 32), generator=torch.Generator().manual_seed(0))


def parameters(model: nn.Module) -> int:
    return sum(each.numel() for each in model.parameters())


def test_half_of_the_channels_are_normalized_by_image_and_half_by_batch() -> None:
    input = 2 + 3 * torch.randn((4, 6, 5, 7), generator=torch.Generator().manual_seed(0))
    output = InstanceBatchNorm2d(6)(input).detach().numpy()
    values = input.numpy().astype(np.float64)
    for part, axes in ((slice(0, 3), (2, 3)), (slice(3, 6), (0, 2, 3))):
        mean, variance = (f(values[:, part], axis=axes, keepdims=True) for f in (np.mean, np.var))
        np.testing.assert_allclose(output[:, part], (values[:, part] - mean) / np.sqrt(variance + 1e-5), atol=1e-5)


@pytest.mark.parametrize(("make", "blocks"), [(resnet18, 6), (resnet50, 13)])
def test_ibn_a_stands_in_the_first_three_stages(make: type, blocks: int) -> None:
    plain = make(weights=None)
    count = parameters(plain)
    model = use_ibn_a(plain)
    places = [name for name, layer in model.named_modules() if isinstance(layer, InstanceBatchNorm2d)]
    assert len(places) == blocks
    assert all(place.endswith(".bn1") and not place.startswith("layer4") for place in places)
    assert parameters(model) == count  # the authors' networks are no larger, either
    assert model(IMAGES).shape == (3, 1000)


def test_ibn_b_stands_in_the_stem_and_behind_two_additions() -> None:
    torch.manual_seed(0)
    plain = resnet18(weights=None)
    count, first_two = parameters(plain), nn.Sequential(plain.layer1[0], plain.layer1[1]).eval()
    hidden = torch.randn((2, 64, 8, 8))
    with torch.no_grad():
        block = first_two[1]
        entered = first_two[0](hidden)
        added = entered + block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(entered)))))
    model = use_ibn_b(plain).eval()
    assert isinstance(model.bn1, nn.InstanceNorm2d)
    assert [name for name, layer in model.named_modules() if isinstance(layer, NormalizedSum)] == [
        "layer1.1",
        "layer2.1",
    ]
    assert parameters(model) == count + 2 * (64 + 128)
    values = added.numpy().astype(np.float64)
    mean, variance = (f(values, axis=(2, 3), keepdims=True) for f in (np.mean, np.var))
    expected = np.maximum((values - mean) / np.sqrt(variance + 1e-5), 0)
    np.testing.assert_allclose(model.layer1(hidden).detach().numpy(), expected, atol=1e-4)


def test_ibn_is_refused_where_it_has_no_place() -> None:
    for use in (use_ibn_a, use_ibn_b):
        with pytest.raises(UserError, match=r"norm=ibn_[ab] has its places in a residual network of four stages"):
            use(ResNet20())


def test_betas_follow_the_expected_variance() -> None:
    model = remove_norm(resnet18(weights=None), residual="nf", alpha=0.2)
    betas = [each.beta for each in model.modules() if isinstance(each, ScaledResidual)]
    # Stages of two blocks; the first block of stages two to four changes the shape.
    variances = [1, 1.04, 1.08, 1.04, 1.08, 1.04, 1.08, 1.04]
    assert betas == pytest.approx([variance**-0.5 for variance in variances])


@pytest.mark.parametrize("use", [remove_norm, use_scaled_ws])
def test_without_an_alpha_it_is_a_fifth(use: Callable[..., nn.Module]) -> None:
    blocks = [each for each in use(ResNet20(), residual="nf").modules() if isinstance(each, ScaledResidual)]
    assert [block.alpha for block in blocks] == [0.2] * 9


def test_a_scaled_block_computes_its_formula() -> None:
    torch.manual_seed(0)
    block = remove_norm(resnet18(weights=None), residual="nf", alpha=0.5).layer2[0]
    assert isinstance(block, ScaledResidual)
    nn.init.constant_(block.skip_gain, 0.7)
    block.double()
    x = torch.randn((2, 64, 8, 8), dtype=torch.float64)
    inner, beta = block.block, (1 + 2 * 0.25) ** -0.5
    branch = inner.conv2(torch.relu(inner.conv1(beta * x)))
    expected = torch.relu(inner.downsample[0](beta * x) + 0.7 * 0.5 * branch)
    torch.testing.assert_close(block(x), expected)


def test_a_scaled_network_begins_as_its_shortcuts_and_learns_the_gains() -> None:
    torch.manual_seed(0)
    model = use_scaled_ws(ResNet20(), residual="nf")
    assert sum(isinstance(layer, ScaledWSConv2d) for layer in model.modules()) == 19
    before = model(IMAGES)
    for layer in model.modules():
        if isinstance(layer, ScaledResidual):
            nn.init.normal_(layer.block.conv1.weight)
    assert torch.equal(model(IMAGES), before)
    model(IMAGES).square().sum().backward()
    gains = [layer.skip_gain.grad for layer in model.modules() if isinstance(layer, ScaledResidual)]
    assert len(gains) == 9
    assert all(gain.abs() > 0 for gain in gains)


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        (ResNet20(), {"residual": "skip"}, r"norm\.residual=skip is not known: choose plain or nf\."),
        (ResNet20(), {"alpha": 0.2}, r"norm\.alpha=0\.2 scales the branches of norm\.residual=nf, and with norm\."),
        (ResNet20(), {"residual": "nf", "alpha": 0}, r"norm\.alpha=0 is not possible: choose a number above 0\."),
        (nn.Sequential(nn.Conv2d(3, 4, 3)), {"residual": "nf"}, r"norm\.residual=nf needs residual blocks"),
    ],
)
def test_what_cannot_be_scaled_is_refused(model: nn.Module, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        remove_norm(model, **options)  # type: ignore[arg-type]
