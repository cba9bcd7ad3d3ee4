"""CReFF's client: the gradients of each class as in the official code, and training that is local SGD."""

import pytest
import torch
from torch import nn

from clients import CReFF, LocalSGD
from fedsim.core.errors import UserError
from fedsim.heads import RetrainedHeads, retrained_heads, use_retrained
from fedsim.messages.arrays import to_tensors
from fedsim.methods.interfaces import ClientContext
from fedsim.methods.training import LocalTraining
from tests.clients.small import batches, context, examples, network

TRAINING = LocalTraining(local_epochs=2, batch_size=4, lr=0.1, momentum=0.5)


def two_heads() -> nn.Sequential:
    model = use_retrained(network().float()).double()
    assert isinstance(model, nn.Sequential)
    with torch.no_grad():
        heads_of(model).retrained.weight.mul_(-0.5)
    return model


def heads_of(model: nn.Module) -> RetrainedHeads:
    heads = retrained_heads(model)
    assert heads is not None
    return heads


@pytest.mark.parametrize("repeats", [1, 3])
def test_the_gradients_are_those_of_the_model_that_was_sent(repeats: int) -> None:
    """Of all images of a class, where it has no more than are to be taken."""
    model, sent, data = two_heads(), two_heads(), examples()
    mine = context(model, data)
    CReFF(TRAINING, images=32, repeats=repeats).train(model, mine)
    found = to_tensors(mine.reply.array_records["class_gradients"])
    assert set(found) == {f"{label}/{kind}" for label in range(3) for kind in ("weight", "bias")}
    sent.eval()
    classifier = nn.Linear(5, 3).double()
    classifier.load_state_dict(heads_of(sent).retrained.state_dict())
    for label in range(3):
        images = data.images[data.labels == label].double() / 127.5 - 1
        loss = nn.CrossEntropyLoss()(classifier(sent[:-1](images)), torch.full((len(images),), label))
        for kind, gradient in zip(("weight", "bias"), torch.autograd.grad(loss, classifier.parameters()), strict=True):
            torch.testing.assert_close(found[f"{label}/{kind}"], gradient, rtol=1e-9, atol=1e-12)


def test_fewer_images_are_drawn_and_averaged_over_the_repeats() -> None:
    """With one image at a time, the mean of many draws comes near the mean of all images."""
    model, data = two_heads(), examples()
    of_all, of_one = context(model, data), context(model, data)
    CReFF(TRAINING, images=32, repeats=1).begin(model, of_all)
    CReFF(TRAINING, images=1, repeats=400).begin(model, of_one)
    all_, one = (to_tensors(each.reply.array_records["class_gradients"]) for each in (of_all, of_one))
    for name, gradient in all_.items():
        assert not torch.equal(one[name], gradient)
        torch.testing.assert_close(one[name], gradient, rtol=0, atol=0.05, msg=name)


def test_training_is_local_sgd_bit_for_bit() -> None:
    model, plain = two_heads(), network().float().double()
    assert CReFF(TRAINING, images=2, repeats=2).train(model, context(model, examples())) == LocalSGD(TRAINING).train(
        plain, context(plain, examples())
    )
    moved = {name.replace("trained.", ""): tensor for name, tensor in model.state_dict().items()}
    assert all(torch.equal(moved[name], tensor) for name, tensor in plain.state_dict().items())
    kept = two_heads().state_dict()
    assert all(torch.equal(model.state_dict()[name], kept[name]) for name in kept if "retrained" in name)


@pytest.mark.parametrize("own", [True, False])
def test_it_predicts_with_the_retrained_classifier(own: bool) -> None:
    model = two_heads().eval()
    images = torch.cat([images for images, _ in batches(examples(), 1, 4)])
    found = CReFF(TRAINING, images=32, repeats=10).predict(model, images, ClientContext(own=own))
    features = model[:-1](images)
    assert list(found) == ["", "trained"]
    torch.testing.assert_close(found[""], heads_of(model).retrained(features))
    torch.testing.assert_close(found["trained"], heads_of(model).trained(features))


@pytest.mark.parametrize("name", ["images", "repeats"])
def test_impossible_options_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"^strategy\.{name}=0 is not possible: choose a whole number of at lea"):
        CReFF(TRAINING, **{"images": 32, "repeats": 10, name: 0})
