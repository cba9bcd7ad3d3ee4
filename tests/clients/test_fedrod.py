"""FedRoD's client against the procedure with two optimizers, written out in float64."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clients import FedRoD, LocalSGD
from fedsim.core.errors import UserError
from fedsim.heads import GenericPersonalHeads, generic_personal_heads, use_generic_personal
from fedsim.methods.interfaces import ClientContext
from fedsim.methods.training import LocalTraining
from tests.clients.small import batches, context, examples, network

TRAINING = LocalTraining(local_epochs=2, batch_size=4, lr=0.1, momentum=0.5)


def two_heads() -> nn.Sequential:
    model = use_generic_personal(network().float()).double()
    assert isinstance(model, nn.Sequential)
    with torch.no_grad():  # else its gradients would be those of the generic one
        heads_of(model).personal.weight.mul_(-0.5)
    return model


def heads_of(model: nn.Module) -> GenericPersonalHeads:
    heads = generic_personal_heads(model)
    assert heads is not None
    return heads


def by_hand(model: nn.Sequential) -> None:
    """Step the network and the generic classifier, then the personal one on the features from before that step."""
    heads, body = heads_of(model), model[:-1]
    shared = torch.optim.SGD([*body.parameters(), *heads.generic.parameters()], lr=0.1, momentum=0.5)
    personal = torch.optim.SGD(heads.personal.parameters(), lr=0.1, momentum=0.5)
    counts = examples().labels.bincount(minlength=3)
    model.train()
    for images, labels in batches(examples(), 2, 4):
        features = body(images)
        generic = heads.generic(features)
        shared.zero_grad()
        F.cross_entropy(generic + counts.double().log(), labels).backward()
        shared.step()
        loss = F.cross_entropy(generic.detach() + heads.personal(features.detach()), labels)
        personal.zero_grad()
        loss.backward()
        personal.step()


def test_training_is_that_of_two_optimizers_in_turn() -> None:
    model, reference = two_heads(), two_heads()
    FedRoD(TRAINING, gamma=1.0).train(model, context(model, examples()))
    by_hand(reference)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, reference.state_dict()[name], msg=name, rtol=1e-9, atol=1e-12)


def test_with_gamma_0_what_is_shared_is_trained_as_by_local_sgd_bit_for_bit() -> None:
    model, plain = two_heads(), network().float().double()
    FedRoD(TRAINING, gamma=0.0).train(model, context(model, examples()))
    LocalSGD(TRAINING).train(plain, context(plain, examples()))
    moved = {name.replace("generic.", ""): tensor for name, tensor in model.state_dict().items()}
    assert all(torch.equal(moved[name], tensor) for name, tensor in plain.state_dict().items())


def test_a_client_predicts_with_the_sum_and_the_global_model_with_the_generic_classifier() -> None:
    model, trainer = two_heads().eval(), FedRoD(TRAINING, gamma=1.0)
    images = torch.cat([images for images, _ in batches(examples(), 1, 4)])
    features = model[:-1](images)
    generic, personal = (layer(features) for layer in (heads_of(model).generic, heads_of(model).personal))
    own = trainer.predict(model, images, ClientContext())
    assert list(own) == ["", "generic"]
    torch.testing.assert_close(own[""], generic + personal)
    torch.testing.assert_close(own["generic"], generic)
    others = trainer.predict(model, images, ClientContext(own=False))
    assert list(others) == [""]
    torch.testing.assert_close(others[""], generic)


def test_an_impossible_gamma_is_refused() -> None:
    with pytest.raises(UserError, match=r"^strategy\.gamma=-1\.0 is not possible: choose a number of at least 0\.$"):
        FedRoD(TRAINING, gamma=-1.0)
