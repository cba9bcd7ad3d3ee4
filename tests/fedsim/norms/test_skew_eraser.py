"""FDSE's decomposed layers against their definition written out in float64, and where they stand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedsim.core.errors import UserError
from fedsim.norms import ErasingLayer, SkewEraser, deskewed_norms, skew_erasers, use_norm


def batch_normalized(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Of (N, C, ...) by its own mean and biased variance."""
    rows = x.transpose(0, 1).flatten(1)
    rows = (rows - rows.mean(1, keepdim=True)) / torch.sqrt(rows.var(1, correction=0, keepdim=True) + 1e-5)
    rows = rows * weight[:, None] + bias[:, None]
    return rows.view(x.transpose(0, 1).shape).transpose(0, 1)


def drawn_anew(layer: ErasingLayer) -> ErasingLayer:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.double().parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer.train()


@pytest.mark.parametrize(("outputs", "ratio"), [(6, 2), (5, 2), (7, 3)])
def test_a_convolution_is_taken_apart(outputs: int, ratio: int) -> None:
    layer = drawn_anew(ErasingLayer(nn.Conv2d(3, outputs, (3, 2), stride=2, padding=1), ratio))
    extracted = -(-outputs // ratio)
    images = torch.randn(4, 3, 7, 6, generator=torch.Generator().manual_seed(2)).double()
    features = F.conv2d(images, layer.extractor.weight, layer.extractor.bias, stride=2, padding=1)
    assert features.shape[1] == extracted
    plain = batch_normalized(features, layer.eraser.norm.weight, layer.eraser.norm.bias)
    kernels = layer.eraser.conv.weight  # of output o, over channel o // (ratio - 1) alone
    channels = [F.conv2d(plain[:, [o // (ratio - 1)]], kernels[[o]], padding=1) for o in range(len(kernels))]
    expected = torch.cat([plain, *channels], dim=1)[:, :outputs] + layer.bias[:, None, None]
    torch.testing.assert_close(layer(images), expected, rtol=1e-10, atol=1e-10)


def test_so_is_a_linear_layer() -> None:
    layer = drawn_anew(ErasingLayer(nn.Linear(5, 7)))
    rows = torch.randn(6, 5, generator=torch.Generator().manual_seed(2)).double()
    plain = batch_normalized(
        rows @ layer.extractor.weight.T + layer.extractor.bias, layer.eraser.norm.weight, layer.eraser.norm.bias
    )
    expected = torch.cat([plain, plain * layer.eraser.conv.weight.flatten()], dim=1)[:, :7] + layer.bias
    torch.testing.assert_close(layer(rows), expected, rtol=1e-10, atol=1e-10)


def test_layers_in_front_of_batch_norm_are_taken_apart_and_others_stay() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Flatten()),
        *(nn.Linear(36, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)),
    )
    kept = model[1], model[3], model[6], model[8]
    use_norm(model, "dse")
    assert (model[1], model[3], model[6], model[8]) == kept
    assert [type(model[place]) for place in (0, 5)] == [ErasingLayer, ErasingLayer]
    assert list(skew_erasers(model)) == ["0.eraser", "5.eraser"]
    assert list(deskewed_norms(model)) == ["1", "6"]
    assert all(isinstance(each, SkewEraser) for each in skew_erasers(model).values())
    assert model[0].extractor.weight.shape == (2, 1, 3, 3)
    assert model(torch.randn(3, 1, 3, 3)).shape == (3, 2)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (
            nn.Sequential(nn.Linear(2, 2)),
            r"^norm=dse takes layers in front of BatchNorm apart, and this network",
        ),
        (
            nn.Sequential(nn.ReLU(), nn.BatchNorm1d(2)),
            r"and 1 has none there: choose another norm, or model=cnn_",
        ),
        (nn.Sequential(nn.Conv2d(2, 2, 1, groups=2), nn.BatchNorm2d(2)), r"^norm=dse takes a convolution of one group"),
    ],
)
def test_networks_that_it_does_not_fit_are_refused(model: nn.Module, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        use_norm(model, "dse")


def test_a_ratio_of_one_is_refused() -> None:
    with pytest.raises(UserError, match=r"^norm\.ratio=1 is not possible: choose a whole number of 2 or more\.$"):
        use_norm(nn.BatchNorm1d(2), "dse", ratio=1)
