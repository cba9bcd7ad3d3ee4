"""Which statistics BatchNorm uses, against sums in float64, and that the stored ones are never touched."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from fedsim.norms.statistics import (
    batch_norms,
    batch_statistics,
    forget_running_statistics,
    frozen_statistics,
    reestimated_statistics,
)


@pytest.fixture
def model() -> nn.Module:
    """A convolution and a linear layer, each with a BatchNorm that has seen some batches."""
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(4 * 36, 5), nn.BatchNorm1d(5), nn.Dropout(0.5)),
    )
    for layer in batch_norms(network):
        nn.init.uniform_(layer.weight, 0.5, 2.0)
        nn.init.normal_(layer.bias)
    for _ in range(3):
        network(torch.randn(16, 3, 8, 8) * 2 + 1)
    return network


Statistics = list[tuple[torch.Tensor, torch.Tensor]]


def by_hand(model: nn.Module, images: torch.Tensor, statistics: Statistics) -> torch.Tensor:
    """The network in float64, its two BatchNorms by the given means and variances."""
    conv, first, _, _, linear, second, _ = model
    hidden = nn.functional.conv2d(images.double(), conv.weight.double(), conv.bias.double())
    for layer, (mean, variance) in zip((first, second), statistics, strict=True):
        shape = (1, -1, 1, 1) if hidden.dim() == 4 else (1, -1)
        scaled = (hidden - mean.view(shape)) / (variance.view(shape) + layer.eps).sqrt()
        hidden = scaled * layer.weight.double().view(shape) + layer.bias.double().view(shape)
        if hidden.dim() == 4:
            flat = hidden.relu().flatten(1)
            hidden = flat @ linear.weight.double().T + linear.bias.double()
    return hidden


def input_statistics(model: nn.Module, images: torch.Tensor, correction: int) -> Statistics:
    """Mean and variance of what reaches each BatchNorm if each normalizes by the batch."""
    conv, first, _, _, linear, _, _ = model
    hidden = nn.functional.conv2d(images.double(), conv.weight.double(), conv.bias.double())
    one = hidden.transpose(0, 1).flatten(1)
    mean, biased = one.mean(1), one.var(1, correction=0)
    normalized = (hidden - mean.view(1, -1, 1, 1)) / (biased.view(1, -1, 1, 1) + first.eps).sqrt()
    normalized = normalized * first.weight.double().view(1, -1, 1, 1) + first.bias.double().view(1, -1, 1, 1)
    two = normalized.relu().flatten(1) @ linear.weight.double().T + linear.bias.double()
    return [(mean, one.var(1, correction=correction)), (two.mean(0), two.var(0, correction=correction))]


def stored(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def unchanged(model: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    after = model.state_dict()
    return after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_batch_statistics_are_those_of_each_batch(model: nn.Module) -> None:
    images, before = torch.randn(12, 3, 8, 8) * 3, stored(model)
    with batch_statistics(model), torch.no_grad():
        model.eval()
        output = model(images)
    expected = by_hand(model, images, input_statistics(model, images, correction=0))
    torch.testing.assert_close(output.double(), expected, rtol=1e-4, atol=1e-4)
    assert unchanged(model, before)
    assert not torch.allclose(model(images), output)  # outside, the running statistics hold again


def test_frozen_statistics_are_used_in_training_and_gamma_and_beta_are_trained(model: nn.Module) -> None:
    images, before = torch.randn(12, 3, 8, 8) * 3, stored(model)
    first, second = batch_norms(model)
    statistics = [(layer.running_mean.double(), layer.running_var.double()) for layer in (first, second)]
    with frozen_statistics(model):
        model.train()
        model[6].eval()  # dropout
        output = model(images)
        output.square().sum().backward()
    torch.testing.assert_close(output.double(), by_hand(model, images, statistics), rtol=1e-4, atol=1e-4)
    assert unchanged(model, before)
    assert first.weight.grad.abs().sum() > 0
    assert second.bias.grad.abs().sum() > 0
    model.train()
    model(images)
    assert not unchanged(model, before)  # the hooks are gone


def test_reestimated_statistics_are_the_mean_over_the_batches(model: nn.Module) -> None:
    one, other, images = (torch.randn(12, 3, 8, 8) * scale for scale in (1, 3, 2))
    before = stored(model)
    model.train()
    with reestimated_statistics(model, [one, other]):
        assert model.training
        model.eval()
        with torch.no_grad():
            output = model(images)
    each = [input_statistics(model, batch, correction=1) for batch in (one, other)]
    expected = [((a[0] + b[0]) / 2, (a[1] + b[1]) / 2) for a, b in zip(*each, strict=True)]
    torch.testing.assert_close(output.double(), by_hand(model, images, expected), rtol=1e-4, atol=1e-4)
    assert unchanged(model, before)
    assert all(layer.momentum == 0.1 for layer in batch_norms(model))


def test_forgotten_statistics_leave_only_gamma_and_beta(model: nn.Module) -> None:
    forget_running_statistics(model)
    assert {name for name in model.state_dict() if name.startswith("1.")} == {"1.weight", "1.bias"}
    before = stored(model)
    model.train()
    model(torch.randn(4, 3, 8, 8))
    assert unchanged(model, before)
    model.load_state_dict(before)  # nothing is missing and nothing is left over
    images = torch.randn(12, 3, 8, 8)
    with reestimated_statistics(model, [images]), torch.no_grad():
        model.eval()
        output = model(images)
    expected = by_hand(model, images, input_statistics(model, images, correction=1))
    torch.testing.assert_close(output.double(), expected, rtol=1e-4, atol=1e-4)
    assert unchanged(model, before)


def test_batches_are_not_counted_while_they_are_normalized_by_themselves(model: nn.Module) -> None:
    before, images = stored(model), torch.randn(12, 3, 8, 8)
    model.train()
    model[6].eval()  # dropout
    with batch_statistics(model):
        output = model(images)
    assert unchanged(model, before)
    expected = by_hand(model, images, input_statistics(model, images, correction=0))
    torch.testing.assert_close(output.double(), expected, rtol=1e-4, atol=1e-4)
    model.train()(images)
    assert [layer.num_batches_tracked.item() for layer in batch_norms(model)] == [4, 4]


@pytest.mark.parametrize("training", [True, False])
def test_frozen_statistics_leave_the_modes_as_they_are(model: nn.Module, training: bool) -> None:
    images, plain = torch.randn(12, 3, 8, 8), deepcopy(model)
    model.train(training)
    model[1].train(not training)
    modes = [module.training for module in model.modules()]
    before = stored(model)
    with frozen_statistics(model):
        model(images)
        assert [module.training for module in model.modules()] == modes
        with pytest.raises(ValueError, match="expected 4D input"):
            model[1](images[0])
    assert [module.training for module in model.modules()] == modes
    assert unchanged(model, before)
    for network in (model, plain):
        network.train()(images)
    assert unchanged(model, stored(plain))  # statistics move again, as if nothing had been frozen


def test_modes_are_restored_where_a_batch_cannot_be_computed(model: nn.Module) -> None:
    model.eval()
    model[6].train()
    modes, before = [module.training for module in model.modules()], stored(model)
    with pytest.raises(RuntimeError), reestimated_statistics(model, [torch.randn(4, 3, 8, 8), torch.randn(4, 2, 8, 8)]):
        pass
    assert [module.training for module in model.modules()] == modes
    assert unchanged(model, before)
