"""Statistics of a client's own images, against sums by hand."""

import pytest
import torch
from torch import nn

from fedsim.norms import EstimatedBatchNorm, HybridBatchNorm, PowerNorm, UnifiedNorm
from fedsim.norms.own_statistics import own_statistics

BATCHES = [scale * torch.randn((6, 3, 4, 4), generator=torch.Generator().manual_seed(scale)) + 5 for scale in (1, 2, 3)]


class Twice(nn.Module):
    """A network that passes one layer twice."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layer(self.layer(images) + 2)
        return output


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, EstimatedBatchNorm, HybridBatchNorm])
def test_means_of_a_layer_are_over_all_of_its_calls(kind: type[nn.Module]) -> None:
    layer = kind(3)
    with own_statistics(Twice(layer), BATCHES):
        mean = layer.get_buffer("running_mean").clone()
    assert torch.equal(layer.get_buffer("running_mean"), torch.zeros(3))
    # What is normalized by its own batch has a mean of zero, and then of two.
    expected = (torch.stack([batch.mean((0, 2, 3)) for batch in BATCHES]).mean(0) + 2) / 2
    torch.testing.assert_close(mean, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "statistic"), [(PowerNorm, "phi"), (UnifiedNorm, "running_var")])
def test_mean_squares_of_a_layer_are_over_all_of_its_calls(kind: type[nn.Module], statistic: str) -> None:
    layer = kind(3)
    with own_statistics(Twice(layer), BATCHES):
        mean_square = layer.get_buffer(statistic).clone()
    given = [batch.double() for batch in BATCHES]
    scaled = [batch / (batch.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt() + 2 for batch in given]
    expected = torch.stack([batch.square().mean((0, 2, 3)) for batch in given + scaled]).mean(0)
    torch.testing.assert_close(mean_square.double(), expected, rtol=1e-4, atol=1e-4)
