"""Generator and transformation of features, against their layers written out."""

import torch
from torch import nn
from torch.nn import functional as F

from fedsim.models.feature_networks import FeatureGenerator, FeatureTransform, latent_size

LABELS = torch.tensor([2, 0, 2, 1])


def normalized(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A linear layer and BatchNorm of the batch, whose scales are one and shifts zero at first."""
    outputs = inputs @ weight.T + bias
    return (outputs - outputs.mean(0)) / (outputs.var(0, unbiased=False) + 1e-5).sqrt()


def test_the_generator_has_two_blocks_and_takes_labels_beside_noise() -> None:
    torch.manual_seed(0)
    network, noise = FeatureGenerator(features=6, latent=3, classes=4).double(), torch.rand(4, 3, dtype=torch.float64)
    state = network.state_dict()
    values = torch.cat([noise, F.one_hot(LABELS, 4).double()], dim=1)
    for place in (0, 3):
        values = normalized(values, state[f"layers.{place}.weight"], state[f"layers.{place}.bias"]).relu()
    torch.testing.assert_close(network(noise, LABELS), values)


def test_the_transformation_adds_to_the_reference() -> None:
    torch.manual_seed(0)
    network = FeatureTransform(features=6, latent=3, classes=4).double()
    generated, reference = torch.rand(4, 6, dtype=torch.float64), torch.rand(4, 6, dtype=torch.float64)
    state = network.state_dict()
    values = torch.cat([generated, F.one_hot(LABELS, 4).double()], dim=1)
    values = normalized(values, state["layers.0.weight"], state["layers.0.bias"]).relu()
    values = reference + normalized(values, state["layers.3.weight"], state["layers.3.bias"])
    torch.testing.assert_close(network(generated, reference, LABELS), values)


def test_the_networks_have_as_many_numbers_as_the_authors() -> None:
    """At 512 features and ten classes, with noise of 256 numbers."""

    def count(network: nn.Module) -> int:
        return sum(each.numel() for each in network.parameters())

    assert count(FeatureGenerator(512, 256, 10)) == 512 * 266 + 512 + 2 * 512 + 512 * 512 + 512 + 2 * 512
    assert count(FeatureTransform(512, 256, 10)) == 256 * 522 + 256 + 2 * 256 + 512 * 256 + 512 + 2 * 512


def test_noise_has_half_as_many_numbers_as_there_are_features() -> None:
    assert [latent_size(512, None), latent_size(5, None), latent_size(1, None), latent_size(512, 64)] == [256, 2, 1, 64]
