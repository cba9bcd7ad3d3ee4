"""APFL's client against Algorithm 1, written out in float64, and against the official code on a linear model."""

import copy

import pytest
import torch
from flwr.app import MetricRecord
from torch import nn
from torch.nn import functional as F

from clients import APFL
from datasets.examples import Examples
from fedsim.core.errors import UserError
from fedsim.messages.arrays import to_tensors
from fedsim.methods.interfaces import ClientContext
from fedsim.methods.training import LocalTraining
from tests.clients.small import batches, context, examples, network

TRAINING = LocalTraining(local_epochs=2, batch_size=4, lr=0.1, momentum=0.0)
Parameters = list[torch.Tensor]


def gradients(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Parameters:
    return list(torch.autograd.grad(F.cross_entropy(model(images), labels), list(model.parameters())))


def filled(model: nn.Module, values: Parameters) -> nn.Module:
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), values, strict=True):
            parameter.copy_(value)
    return model


def by_hand(w: nn.Module, v: Parameters, mixture: nn.Module, alpha: float, data: Examples, seed: int) -> float:
    """Train both models in place, and return the new share; the mixture keeps its running statistics."""
    w.train()
    mixture.train()
    for number, (images, labels) in enumerate(batches(data, 2, 4, seed=seed)):
        before = [each.detach().clone() for each in w.parameters()]
        mixed = [alpha * own + (1 - alpha) * shared for own, shared in zip(v, before, strict=True)]
        found = gradients(filled(mixture, mixed), images, labels)
        filled(w, [each - 0.1 * g for each, g in zip(before, gradients(w, images, labels), strict=True)])
        slope = sum(((own - each) * g).sum() for own, each, g in zip(v, before, found, strict=True))
        for own, g in zip(v, found, strict=True):
            own -= 0.1 * alpha * g
        if number == 0:
            alpha = min(1.0, max(0.0, alpha - 0.1 * float(slope)))
    return alpha


def test_two_rounds_are_those_of_the_algorithm() -> None:
    data, state, alpha = examples(), {}, 0.3
    v: Parameters = []
    statistics: dict[str, torch.Tensor] = {}
    for round in (1, 2):
        model = network(seed=round)  # what the server sends in this round
        w, mixture = copy.deepcopy(model), copy.deepcopy(model)
        v = v or [each.detach().clone() for each in model.parameters()]
        for name, own in statistics.items():
            sent = mixture.get_buffer(name)
            mixture.get_buffer(name).copy_(alpha * own + (1 - alpha) * sent if own.is_floating_point() else own)
        mine = context(model, data, seed=round, state=state)
        APFL(TRAINING, alpha=0.3, adaptive=True).train(model, mine)
        before, alpha = alpha, by_hand(w, v, mixture, alpha, data, round)
        statistics = {name: buffer.clone() for name, buffer in mixture.named_buffers()}

        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(tensor, w.state_dict()[name], msg=name, rtol=1e-9, atol=1e-12)
        kept, share = to_tensors(state["own model"]), state["alpha"]  # type: ignore[arg-type]
        for (name, _), own in zip(model.named_parameters(), v, strict=True):
            torch.testing.assert_close(kept[name], own, msg=name, rtol=1e-9, atol=1e-12)
        for name, buffer in statistics.items():
            torch.testing.assert_close(kept[name], buffer, msg=name, rtol=1e-9, atol=1e-12)
        assert isinstance(share, MetricRecord)
        assert share["alpha"] == pytest.approx(alpha, rel=1e-9)
        assert (alpha == before) == (round == 1)  # both models are the same in the first step of the first round


def test_on_a_linear_model_it_is_the_official_step_but_for_the_slope_of_alpha() -> None:
    """There mixing logits is mixing weights; its slope is ours times a**2 + (1 - a)**2, and a penalty of 0.02 a."""
    alpha, lr = 0.4, 0.1
    data = examples(4)
    images, labels = data.images.flatten(1).double() / 127.5 - 1, data.labels

    def linear(seed: int) -> nn.Linear:
        torch.manual_seed(seed)
        return nn.Linear(16, 3).double()

    local, personal = linear(1), linear(2)
    output = alpha * personal(images) + (1 - alpha) * local(images)
    F.cross_entropy(output, labels).backward()
    theirs = 0.0
    for l_params, p_params in zip(local.parameters(), personal.parameters(), strict=True):
        assert l_params.grad is not None
        assert p_params.grad is not None
        grad = alpha * p_params.grad + (1 - alpha) * l_params.grad
        theirs += float((p_params.data - l_params.data).view(-1).dot(grad.view(-1)))
    expected = [(p - lr * p.grad).detach() for p in personal.parameters()]  # type: ignore[operator]

    model = nn.Sequential(nn.Flatten(), linear(1))
    own = nn.Sequential(nn.Flatten(), linear(2))
    state = {"own model": context(own, data).sent["arrays"], "alpha": MetricRecord({"alpha": alpha})}
    one_step = LocalTraining(local_epochs=1, batch_size=4, lr=lr, momentum=0.0)
    APFL(one_step, alpha=0.9, adaptive=True).train(model, context(model, data, state=state))
    for found, each in zip(to_tensors(state["own model"]).values(), expected, strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(found, each, rtol=1e-9, atol=1e-12)
    share = state["alpha"]
    assert isinstance(share, MetricRecord)
    slope = (alpha - float(str(share["alpha"]))) / lr
    assert theirs == pytest.approx((alpha**2 + (1 - alpha) ** 2) * slope, rel=1e-9)
    assert abs(slope) > 1e-3


def test_it_is_evaluated_with_the_mixture_once_there_is_one() -> None:
    model, trainer, state = network(), APFL(TRAINING, alpha=0.3, adaptive=False), {}
    arrays = {name: each.clone() for name, each in model.state_dict().items()}
    assert trainer.unpack(arrays, model, ClientContext()) is arrays
    mine = context(model, examples(), state=state)
    trainer.train(model, mine)
    own = to_tensors(state["own model"])  # type: ignore[arg-type]
    found = trainer.unpack(arrays, model, ClientContext(state=state))
    for name in ("6.weight", "1.running_var"):
        torch.testing.assert_close(found[name], 0.3 * own[name] + 0.7 * arrays[name])
    assert found["1.num_batches_tracked"] == 6
    assert trainer.unpack(arrays, model, mine) is arrays  # in training the shared one is
    assert state["alpha"] == MetricRecord({"alpha": 0.3})


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_an_impossible_alpha_is_refused(alpha: float) -> None:
    with pytest.raises(UserError, match=r"^strategy\.alpha=.* is not possible: choose a number from 0 to 1\.$"):
        APFL(TRAINING, alpha=alpha, adaptive=True)
