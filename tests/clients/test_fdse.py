"""FDSE's client: its loss against the formula in numpy, over steps and layers, and its gradient by autograd."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clients import FDSE, LocalSGD
from fedsim.methods.training import LocalTraining
from fedsim.norms import use_norm
from tests.clients.small import batches, context, examples

TRAINING = LocalTraining(local_epochs=2, batch_size=4, lr=0.1, momentum=0.0)


def erasing() -> nn.Module:
    """Two BatchNorms behind erasers, with global statistics that are no new layer's."""
    torch.manual_seed(1)
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(16, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)),
    )
    use_norm(model, "dse").double()
    for place in (1, 5):
        model[place].running_mean.normal_()
        model[place].running_var.uniform_(0.5, 2)
    return model


def by_hand(model: nn.Module, lam: float, beta: float) -> None:
    """Both epochs, with the second derivation of the distance in tensors that are followed."""
    mean_of, var_of = {}, {}
    for place in (1, 5):
        mean_of[place], var_of[place] = model[place].running_mean.clone(), model[place].running_var.clone()
    scale = np.exp(beta * np.arange(2))
    scale = scale / scale.sum()
    m = v = None
    for images, labels in batches(examples(), epochs=2, size=4):
        first = model[0](images)
        second = model[4](model[3](model[2](model[1](first))))
        loss = F.cross_entropy(model[7](model[6](model[5](second))), labels)
        for place, input, weight in ((1, first, scale[0]), (5, second, scale[1])):
            means = input.transpose(0, 1).flatten(1).mean(1)
            centred = means - means.sum() / len(means)
            new_m, new_v = means.sum() / len(means), (centred**2).sum() / (len(means) - 1)
            m = new_m if m is None else 0.9 * m + 0.1 * new_m
            v = new_v if v is None else 0.9 * v + 0.1 * new_v
            g, s = mean_of[place], var_of[place]
            terms = (g**2 - m**2) / (2 * v) + 0.5 * torch.log(v / (s + 1e-8)) + 0.5 * s / (v + 1e-8)
            loss = loss + lam * weight * terms.sum() / len(terms)
        assert m is not None
        assert v is not None
        m, v = m.detach(), v.detach()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= 0.1 * gradient


def test_from_the_second_round_on_it_trains_on_the_regularized_loss() -> None:
    model, other = erasing(), erasing()
    FDSE(TRAINING, lam=0.3, beta=0.7).train(model, context(model, examples(), round=2))
    by_hand(other.train(), lam=0.3, beta=0.7)
    for (name, tensor), expected in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(tensor, expected, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize(("round", "lam"), [(1, 0.3), (2, 0.0)])
def test_in_the_first_round_and_without_a_weight_it_is_local_sgd(round: int, lam: float) -> None:
    model, plain = erasing(), erasing()
    FDSE(TRAINING, lam=lam, beta=0.7).train(model, context(model, examples(), round=round))
    LocalSGD(TRAINING).train(plain, context(plain, examples(), round=round))
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_gradients_are_shortened_together() -> None:
    model, other = erasing(), erasing()
    FDSE(TRAINING, lam=0.0, beta=0.0, clip_norm=0.5).train(model, context(model, examples(count=4)))
    longest = 0.0
    for images, labels in batches(examples(count=4), epochs=2, size=4):
        gradients = torch.autograd.grad(F.cross_entropy(other(images), labels), list(other.parameters()))
        length = sum(float((gradient**2).sum()) for gradient in gradients) ** 0.5
        longest = max(longest, length)
        with torch.no_grad():
            for parameter, gradient in zip(other.parameters(), gradients, strict=True):
                parameter -= 0.1 * gradient * min(1, 0.5 / (length + 1e-6))
    assert longest > 0.5
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-11)


def test_nothing_is_left_in_the_network() -> None:
    model = erasing()
    FDSE(TRAINING, lam=0.3, beta=0.7).train(model, context(model, examples(), round=2))
    assert not any(module._forward_pre_hooks for module in model.modules())
