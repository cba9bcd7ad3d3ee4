"""The search for the largest gradients where layers are used in unusual ways, and what it leaves behind."""

import pytest
import torch
from torch import nn

from fedsim.methods.sparse.gradients import (
    BatchLoss,
    _slices,
)
from fedsim.models import CNNSmall
from tests.fedsim.methods.sparse.test_gradients import NETWORKS, SMALL, Find, check, dense_gradients, on_images, prune

# Uses of a layer


class Twice(nn.Module):
    """One convolution used three times, once for nothing and once without gradients; and two tied layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 1)
        self.again = nn.Conv2d(6, 6, 3, padding=1)
        self.head, self.tied, self.alone = nn.Linear(6, 5), nn.Linear(6, 5), nn.Linear(5, 5)
        self.tied.weight = self.head.weight

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.again(self.again(input=self.first(images)).tanh()).tanh()
        self.again(features)
        with torch.no_grad():
            target = self.again(features)
        means = (features - target).mean((2, 3))
        logits: torch.Tensor = self.head(means) + self.alone(self.tied(means.square()))
        return logits


@pytest.mark.parametrize("count", [3, 60, 1000])
def test_a_layer_used_twice_and_a_weight_of_two_layers(count: int, find: Find) -> None:
    torch.manual_seed(0)
    model = Twice().double()
    masks, batch_loss = prune(model), on_images(model)
    counts = dict.fromkeys(masks, count)
    gradients = dense_gradients(model, batch_loss)
    check(find(model, batch_loss, masks, counts), gradients, masks, counts)


def test_a_layer_without_a_gradient_is_named(find: Find) -> None:
    used, unused = nn.Linear(3, 2), nn.Linear(3, 2)
    model = nn.ModuleDict({"used": used, "unused": unused})
    masks, rows = prune(model), torch.ones(1, 3)
    batch_losses: list[BatchLoss] = [
        lambda: used(rows).sum(),
        lambda: used(rows).sum() + unused(rows).detach().sum(),
    ]
    for batch_loss in batch_losses:
        with pytest.raises(RuntimeError, match="reaches the weights of unused"):
            find(model, batch_loss, masks, {"used": 1, "unused": 1})
    with pytest.raises(RuntimeError, match="reaches the weights of used, unused"):
        find(model, lambda: torch.zeros(()), masks, {"used": 1, "unused": 1})


def test_an_input_changed_in_place_is_refused(find: Find) -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    masks, rows = prune(model), torch.ones(1, 3)

    def batch_loss() -> torch.Tensor:
        loss: torch.Tensor = model(rows).sum()
        rows.zero_()
        return loss

    with pytest.raises(RuntimeError, match=r"in ?place"):
        find(model, batch_loss, masks, {"0": 1})
    assert model[0].weight.requires_grad


# What is left behind


@pytest.mark.parametrize("network", ["every_kind", "cosine"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(network: str, fails: bool, find: Find) -> None:
    model = NETWORKS[network]()
    masks, batch_loss = prune(model), on_images(model)
    batch_loss().backward()
    parameters = dict(model.named_parameters())
    for number, parameter in enumerate(parameters.values()):
        parameter.requires_grad_(number % 3 != 0)
        if number % 4 == 1:
            parameter.grad = None
    before = {
        name: (parameter.requires_grad, parameter.grad, None if parameter.grad is None else parameter.grad.clone())
        for name, parameter in parameters.items()
    }
    values = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    outside = torch.ones((), requires_grad=True)

    def loss_or_error() -> torch.Tensor:
        if fails:
            raise KeyError("no batch")
        return batch_loss() * outside

    counts = dict.fromkeys(masks, 5)
    if fails:
        with pytest.raises(KeyError):
            find(model, loss_or_error, masks, counts)
    else:
        with torch.no_grad():  # of no consequence
            find(model, loss_or_error, masks, counts)
    assert dict(model.named_parameters()).keys() == parameters.keys()
    for name, parameter in model.named_parameters():
        required, gradient, copy = before[name]
        assert parameter is parameters[name]
        assert parameter.requires_grad == required
        assert parameter.grad is gradient
        if gradient is not None:
            assert copy is not None
            assert torch.equal(gradient, copy)
        assert torch.equal(parameter, values[name])
        assert not parameter._post_accumulate_grad_hooks
    assert outside.grad is None
    assert not [layer for layer in model.modules() if layer._forward_hooks]


def test_statistics_move_once_as_in_any_forward_pass(find: Find) -> None:
    model = CNNSmall(5, SMALL)
    find(model, on_images(model), prune(model), {"head": 5, "features.0": 5})
    assert model.features[1].num_batches_tracked == 1


def test_slices_cover_each_channel_once_and_keep_to_groups() -> None:
    for channels, groups in ((6, 1), (6, 2), (6, 6), (8, 4), (12, 3)):
        for size in range(1, channels + 3):
            slices = list(_slices(channels, groups, size))
            assert [row for rows, _ in slices for row in range(rows.start, rows.stop)] == list(range(channels))
            for rows, part in slices:
                assert rows.stop - rows.start <= size
                width = channels // groups
                assert {row // width for row in range(rows.start, rows.stop)} == set(range(part.start, part.stop))
                if part.stop - part.start > 1:
                    assert rows == slice(part.start * width, part.stop * width)
