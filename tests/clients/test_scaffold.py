"""SCAFFOLD's client: steps with corrected gradients and option II, against a loop written out in numpy."""

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, RecordDict
from torch import nn

from clients import LocalSGD, Scaffold
from datasets.examples import Examples
from fedsim.core.errors import UserError
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.methods.interfaces import TrainingContext
from fedsim.methods.training import LocalTraining

TRAINING = LocalTraining(local_epochs=2, batch_size=4, lr=0.1, momentum=0.0)
Tensors = dict[str, torch.Tensor]


def linear_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 5))


def examples(count: int = 10) -> Examples:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8, generator=generator)
    return Examples(images, torch.arange(count) % 5)


def control(seed: int, model: nn.Module) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.1 * torch.randn(tensor.shape, generator=generator) for name, tensor in model.named_parameters()}


def context(server: Tensors, own: Tensors | None = None) -> TrainingContext:
    return TrainingContext(
        data=examples(),
        generator=torch.Generator().manual_seed(7),
        round=1,
        sent=RecordDict({"control": to_record(server)}),
        state={} if own is None else {"control": to_record(own)},
    )


def by_hand(model: nn.Module, server: Tensors, own: Tensors) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Softmax regression after two epochs, and the new control variate: ``c_i - c + (x - y) / (K lr)``."""
    start = [parameter.detach().double().numpy() for parameter in model.parameters()]
    shift = [(server[name] - own[name]).double().numpy() for name in ("1.weight", "1.bias")]
    (weight, bias), data, steps = start, examples(), 0
    pixels, labels = data.images.flatten(1).double().numpy() / 127.5 - 1, data.labels.numpy()
    generator = torch.Generator().manual_seed(7)
    for _ in range(2):
        for batch in torch.randperm(10, generator=generator).split(4):
            exponentials = np.exp(pixels[batch] @ weight.T + bias)
            error = exponentials / exponentials.sum(1, keepdims=True) - np.eye(5)[labels[batch]]
            weight = weight - 0.1 * (error.T @ pixels[batch] / len(batch) + shift[0])
            bias = bias - 0.1 * (error.mean(0) + shift[1])
            steps += 1
    trained = [weight, bias]
    moved = [(before - after) / (steps * 0.1) for before, after in zip(start, trained, strict=True)]
    return trained, [each - change for each, change in zip(moved, shift, strict=True)]


@pytest.mark.parametrize("first", [True, False], ids=["first time", "later"])
def test_steps_and_control_variates_are_those_written_out(first: bool) -> None:
    model = linear_model()
    server = control(2, model)
    own = {name: torch.zeros_like(tensor) for name, tensor in server.items()} if first else control(3, model)
    trained, new = by_hand(model, server, own)
    mine = context(server, None if first else own)
    Scaffold(TRAINING).train(model, mine)
    for parameter, expected in zip(model.parameters(), trained, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=0, atol=1e-6)
    kept, change = mine.state["control"], mine.reply["control"]
    assert isinstance(kept, ArrayRecord)
    assert isinstance(change, ArrayRecord)
    for name, expected in zip(("1.weight", "1.bias"), new, strict=True):
        np.testing.assert_allclose(to_tensors(kept)[name].numpy(), expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(to_tensors(change)[name].numpy(), expected - own[name].numpy(), rtol=0, atol=1e-5)


def test_with_equal_control_variates_it_is_plain_sgd() -> None:
    model, plain = linear_model(), linear_model()
    metrics = Scaffold(TRAINING).train(model, context(control(2, model), control(2, model)))
    assert metrics == LocalSGD(TRAINING).train(plain, context({}))
    assert all(tensor.equal(plain.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_only_what_the_server_names_is_corrected() -> None:
    """Neither what is frozen or personal nor statistics have a control variate."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(48), nn.Linear(48, 5))
    mine = context({"2.bias": torch.ones(5)})
    Scaffold(TRAINING).train(model, mine)
    kept, reply = mine.state["control"], mine.reply["control"]
    assert isinstance(kept, ArrayRecord)
    assert isinstance(reply, ArrayRecord)
    assert set(kept) == set(reply) == {"2.bias"}


def test_tied_weights_are_corrected_once() -> None:
    """Under both of their names, as they stand in what travels."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.one = nn.Linear(48, 48, bias=False)
            self.two = nn.Linear(48, 48, bias=False)
            self.two.weight = self.one.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.two(self.one(x.flatten(1)))[:, :5]
            return logits

    model, plain = Tied(), Tied()
    c = {"one.weight": torch.full((48, 48), 0.01)}
    mine = context({**c, "two.weight": c["one.weight"]})
    one_step = LocalTraining(local_epochs=1, batch_size=10, lr=0.1, momentum=0.0)
    Scaffold(one_step).train(model, mine)
    LocalSGD(one_step).train(plain, context({}))
    torch.testing.assert_close(model.one.weight, plain.one.weight - 0.1 * 0.01)
    kept = mine.state["control"]
    assert isinstance(kept, ArrayRecord)
    assert set(kept) == {"one.weight", "two.weight"}


@pytest.mark.parametrize(("optimizer", "momentum"), [("sgd", 0.9), ("adam", 0.0), ("sgdp", 0.0)])
def test_steps_that_are_no_sums_of_gradients_are_refused(optimizer: str, momentum: float) -> None:
    training = LocalTraining(1, 4, 0.1, momentum, optimizer)
    with pytest.raises(
        UserError,
        match=rf"^optimizer={optimizer} with momentum={momentum:g} is not possible with strategy=scaffold, .*"
        r": choose optimizer=sgd and momentum=0\.$",
    ):
        Scaffold(training)
