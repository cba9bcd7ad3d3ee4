"""Ditto's client against both trainings, written out."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from clients import Ditto
from datasets.examples import Examples
from fedsim.messages.arrays import to_tensors
from fedsim.methods.interfaces import ClientContext
from fedsim.methods.training import LocalTraining
from tests.clients.small import batches_of, context, examples, network

TRAINING = LocalTraining(local_epochs=2, batch_size=4, lr=0.1, momentum=0.0)


def trained(
    model: nn.Module, data: Examples, generator: torch.Generator, lam: float, near: dict[str, torch.Tensor]
) -> None:
    model.train()
    for images, labels in batches_of(generator, data, 2, 4):
        loss = F.cross_entropy(model(images), labels)
        for name, each in model.named_parameters():
            loss = loss + lam / 2 * (each - near[name]).square().sum()
        found = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for each, gradient in zip(model.parameters(), found, strict=True):
                each -= 0.1 * gradient


def test_its_own_model_is_held_near_the_one_that_is_sent_and_the_shared_one_is_fedavgs() -> None:
    lam, data, state, own = 0.7, examples(), {}, None
    for round in (1, 2):
        model = network(seed=round)  # what the server sends in this round
        shared = copy.deepcopy(model)
        own = copy.deepcopy(model) if own is None else own
        start = {name: each.detach().clone() for name, each in model.named_parameters()}
        mine = context(model, data, seed=round, state=state)
        Ditto(TRAINING, lam=lam).train(model, mine)

        trained(shared, data, torch.Generator().manual_seed(round), 0.0, start)
        trained(own, data, torch.Generator().manual_seed(round), lam, start)  # on the same batches
        kept = to_tensors(state["own model"])  # type: ignore[arg-type]
        for name, each in model.state_dict().items():
            torch.testing.assert_close(each, shared.state_dict()[name], msg=name)
            torch.testing.assert_close(kept[name], own.state_dict()[name], msg=name)
        assert mine.step == mine.steps == 12


def test_it_is_evaluated_with_its_own_model_once_there_is_one() -> None:
    model, trainer = network(), Ditto(TRAINING, lam=0.1)
    arrays = model.state_dict()
    assert trainer.unpack(arrays, model, ClientContext()) is arrays
    state: dict[str, object] = {}
    mine = context(model, examples(), state=state)
    trainer.train(model, mine)
    found = trainer.unpack(arrays, model, ClientContext(state=state))  # type: ignore[arg-type]
    assert torch.equal(found["6.weight"], to_tensors(state["own model"])["6.weight"])  # type: ignore[arg-type]
    assert trainer.unpack(arrays, model, mine) is arrays  # in training the shared one is
