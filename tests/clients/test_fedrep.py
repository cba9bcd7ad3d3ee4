"""FedRep's two parts of local training against loops written out by hand."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clients import FedRep
from datasets.examples import Examples
from fedsim.core.errors import UserError
from fedsim.methods.interfaces import TrainingContext
from fedsim.methods.training import LocalTraining

TRAINING = LocalTraining(local_epochs=2, batch_size=4, lr=0.1, momentum=0.9, weight_decay=0.01)


def network() -> nn.Sequential:
    """A hidden linear layer and running statistics belong to the body."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 8), nn.ReLU())
    return nn.Sequential(body, nn.Linear(8, 5))


def examples(count: int = 10) -> Examples:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8, generator=generator)
    return Examples(images, torch.arange(count) % 5)


def context(data: Examples) -> TrainingContext:
    return TrainingContext(data=data, generator=torch.Generator().manual_seed(7), round=1)


class Momentum:
    """SGD with ``TRAINING``'s momentum and weight decay, written out."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.speeds = [torch.zeros_like(parameter) for parameter in parameters]

    def step(self, loss: torch.Tensor) -> None:
        gradients = torch.autograd.grad(loss, self.parameters)
        with torch.no_grad():
            for parameter, speed, gradient in zip(self.parameters, self.speeds, gradients, strict=True):
                speed.mul_(0.9).add_(gradient + 0.01 * parameter)
                parameter.sub_(0.1 * speed)


def test_head_and_body_are_trained_in_turn_as_written_out() -> None:
    data, model, reference = examples(), network(), network()
    metrics = FedRep(TRAINING, head_epochs=3).train(model, context(data))

    body, head = reference
    generator = torch.Generator().manual_seed(7)
    # A copy of the body, so that nothing of what happens to its statistics is seen later.
    fixed, optimizer = deepcopy(body), Momentum(list(head.parameters()))
    for _ in range(3):
        for batch in torch.randperm(10, generator=generator).split(4):
            with torch.no_grad():
                features = fixed(data.images[batch].float() / 127.5 - 1)
            optimizer.step(F.cross_entropy(head(features), data.labels[batch]))
    optimizer, losses, correct = Momentum(list(body.parameters())), [], 0
    for _ in range(2):
        for batch in torch.randperm(10, generator=generator).split(4):
            logits, labels = head(body(data.images[batch].float() / 127.5 - 1)), data.labels[batch]
            losses.append(F.cross_entropy(logits, labels, reduction="none").detach())
            correct += int((logits.argmax(1) == labels).sum())
            optimizer.step(F.cross_entropy(logits, labels))

    for name, tensor in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, msg=name)
    # Two epochs of three batches for the body; the nine for the head are not counted.
    assert model.state_dict()["0.1.num_batches_tracked"].item() == 6
    assert metrics["num-examples"] == 10
    assert metrics["loss"] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-4)
    assert metrics["accuracy"] == correct / 20


def test_a_frozen_part_stays_and_what_is_trained_is_so_afterwards() -> None:
    """The model goes on to play other clients."""
    model, initial = network(), network().state_dict()
    model.get_parameter("0.0.weight").requires_grad_(False)
    model.get_parameter("1.bias").requires_grad_(False)
    FedRep(TRAINING, head_epochs=1).train(model, context(examples()))
    for name, parameter in model.named_parameters():
        frozen = name in ("0.0.weight", "1.bias")
        assert parameter.requires_grad is not frozen, name
        assert torch.equal(parameter, initial[name]) is frozen, name


def test_what_was_fixed_is_free_again_after_an_error() -> None:
    class Failing(FedRep):
        def before_step(self, model: nn.Module, context: TrainingContext) -> None:
            raise ValueError("told to fail")

    model, initial = network(), network().state_dict()
    with pytest.raises(ValueError, match="told to fail"):
        Failing(TRAINING, head_epochs=1).train(model, context(examples()))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, initial[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("head_epochs", [0, -1])
def test_no_epoch_for_the_head_is_refused(head_epochs: int) -> None:
    with pytest.raises(UserError, match=rf"^strategy\.head_epochs={head_epochs} is not possible: choose a whole numb"):
        FedRep(TRAINING, head_epochs)


def test_its_passes_are_those_of_the_head_and_of_the_body() -> None:
    assert FedRep(LocalTraining(2, 8, 0.1, 0.0), head_epochs=5).epochs() == 7
