"""CReFF's federated features and the classifier of them, against the official procedures in float64."""

import pytest
import torch
from torch import nn

from strategies.federated_features import SMALL, distance, gradients_of, matched, retrained

GENERATOR = torch.Generator().manual_seed(0)
FEATURES = torch.randn(3, 4, 5, generator=GENERATOR, dtype=torch.float64)
"""Three classes, four features of each, of five numbers."""
CLASSIFIER = (
    torch.randn(3, 5, generator=GENERATOR, dtype=torch.float64),
    torch.randn(3, generator=GENERATOR, dtype=torch.float64),
)


def layer() -> nn.Linear:
    linear = nn.Linear(5, 3).double()
    linear.load_state_dict(dict(zip(("weight", "bias"), CLASSIFIER, strict=True)))
    return linear


def official_distance(one: list[torch.Tensor], other: list[torch.Tensor]) -> torch.Tensor:
    """``match_loss`` with ``distance_wb``: the rows of the weight, and the bias as one row."""
    total = torch.tensor(0.0, dtype=torch.float64)
    for gwr, gws in zip(other, one, strict=True):
        if gwr.dim() == 1:
            gwr, gws = gwr.reshape(1, -1), gws.reshape(1, -1)
        lengths = torch.norm(gwr, dim=-1) * torch.norm(gws, dim=-1)
        total = total + torch.sum(1 - torch.sum(gwr * gws, dim=-1) / (lengths + 0.000001))
    return total


def real_gradients() -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """Of classes 0 and 2; no client has class 1."""
    generator = torch.Generator().manual_seed(1)
    images = {label: torch.randn(6, 5, generator=generator, dtype=torch.float64) for label in (0, 2)}
    found = {}
    for label, features in images.items():
        linear = layer()
        nn.CrossEntropyLoss()(linear(features), torch.full((6,), label)).backward()
        assert linear.weight.grad is not None
        assert linear.bias.grad is not None
        found[label] = linear.weight.grad, linear.bias.grad
    return found


def test_gradients_are_autograds() -> None:
    weights, biases = gradients_of(FEATURES, torch.arange(3), CLASSIFIER)
    for label in range(3):
        linear = layer()
        nn.CrossEntropyLoss()(linear(FEATURES[label]), torch.full((4,), label)).backward()
        torch.testing.assert_close(weights[label], linear.weight.grad, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(biases[label], linear.bias.grad, rtol=1e-12, atol=1e-14)


def test_the_distance_is_the_official_one() -> None:
    real, own = real_gradients(), gradients_of(FEATURES[[0, 2]], torch.tensor([0, 2]), CLASSIFIER)
    stacked = torch.stack([real[0][0], real[2][0]]), torch.stack([real[0][1], real[2][1]])
    expected = sum(
        official_distance([own[0][place], own[1][place]], list(real[label])) for place, label in enumerate((0, 2))
    )
    assert SMALL == 0.000001
    torch.testing.assert_close(distance(own, stacked), expected, rtol=1e-12, atol=0)


def test_features_move_as_in_the_official_code_and_those_of_a_class_nobody_has_stay() -> None:
    real, linear = real_gradients(), layer()
    features = FEATURES.flatten(0, 1).clone().requires_grad_()
    optimizer = torch.optim.SGD([features], lr=0.1)
    for _ in range(7):
        loss = torch.tensor(0.0, dtype=torch.float64)
        for label, gradient in real.items():
            own = linear(features[label * 4 : (label + 1) * 4])
            entropy = nn.CrossEntropyLoss()(own, torch.full((4,), label))
            found = torch.autograd.grad(entropy, list(linear.parameters()), create_graph=True)
            loss = loss + official_distance(list(found), list(gradient))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    moved = matched(FEATURES, real, CLASSIFIER, steps=7, lr=0.1)
    torch.testing.assert_close(moved.flatten(0, 1), features.detach(), rtol=1e-10, atol=1e-12)
    assert torch.equal(moved[1], FEATURES[1])
    assert not torch.equal(moved[0], FEATURES[0])


def test_a_classifier_is_trained_as_by_sgd_from_random_weights_on() -> None:
    weight, bias = retrained(FEATURES, epochs=3, lr=0.2, batch_size=5, generator=torch.Generator().manual_seed(4))
    generator, linear = torch.Generator().manual_seed(4), layer()
    with torch.no_grad():
        for parameter in (linear.weight, linear.bias):  # the bound of a linear layer of five inputs
            parameter.uniform_(-(5**-0.5), 5**-0.5, generator=generator)
    flat, labels = FEATURES.flatten(0, 1), torch.arange(3).repeat_interleave(4)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.2)
    for _ in range(3):
        for batch in torch.randperm(12, generator=generator).split(5):
            optimizer.zero_grad()
            nn.CrossEntropyLoss()(linear(flat[batch]), labels[batch]).backward()
            optimizer.step()
    torch.testing.assert_close(weight, linear.weight.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(bias, linear.bias.detach(), rtol=1e-12, atol=1e-14)
    assert weight.abs().max().item() != pytest.approx(5**-0.5)
