"""FBN's client against a loop written out: BatchNorm in evaluation mode, and plain averages over its batches."""

import torch
from torch import nn
from torch.nn import functional as F

from clients import FBN
from fedsim.methods.training import LocalTraining
from tests.clients.small import batches, context, examples, network

TRAINING = LocalTraining(local_epochs=2, batch_size=5, lr=0.1, momentum=0.0)


def with_statistics() -> nn.Module:
    model = network()
    model[1].running_mean.copy_(torch.tensor([0.5, -0.5, 0.1, 2.0]))
    model[1].running_var.copy_(torch.tensor([0.5, 1.5, 2.0, 0.3]))
    return model


def test_it_normalizes_by_what_was_sent_and_returns_averages_over_batches() -> None:
    model, other = with_statistics(), with_statistics()
    FBN(TRAINING).train(model, context(model, examples()))
    means, variances = [], []
    for images, labels in batches(examples(), epochs=2, size=5):
        activations = other[0](images)
        channels = activations.detach().transpose(0, 1).flatten(1)
        means.append(channels.mean(1))
        variances.append(((channels - channels.mean(1, keepdim=True)) ** 2).mean(1))
        scale = other[1].weight / torch.sqrt(other[1].running_var + 1e-5)
        shift = other[1].bias - other[1].running_mean * scale
        logits = other[2:](activations * scale[:, None, None] + shift[:, None, None])
        gradients = torch.autograd.grad(F.cross_entropy(logits, labels), list(other.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(other.parameters(), gradients, strict=True):
                parameter -= 0.1 * gradient
    assert len(means) == 6
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(model[1].running_mean, sum(means) / 6, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(model[1].running_var, sum(variances) / 6, rtol=1e-10, atol=1e-12)
    assert not model[1]._forward_pre_hooks


def test_the_next_client_starts_its_averages_anew() -> None:
    trainer, model = FBN(TRAINING), with_statistics()
    trainer.train(model, context(model, examples()))
    first = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    again = with_statistics()
    trainer.train(again, context(again, examples()))
    assert all(torch.equal(tensor, first[name]) for name, tensor in again.state_dict().items())
