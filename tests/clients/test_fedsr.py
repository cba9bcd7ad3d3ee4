"""FedSR's client against the same loss made of torch's distributions, in float64."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from clients import FedSR, LocalSGD
from fedsim.core.errors import UserError
from fedsim.heads import StochasticHead, stochastic_head, use_stochastic
from fedsim.methods.training import LocalTraining
from tests.clients.small import batches, context, examples, network

TRAINING = LocalTraining(local_epochs=3, batch_size=4, lr=0.1, momentum=0.5, weight_decay=0.01)


def with_head() -> nn.Sequential:
    model = use_stochastic(network().float(), dimensions=4, samples=7).double()
    assert isinstance(model, nn.Sequential)
    return model


def head_of(model: nn.Module) -> StochasticHead:
    head = stochastic_head(model)
    assert head is not None
    return head


def by_hand(model: nn.Sequential, l2r: float, cmi: float) -> None:
    head, body = head_of(model), model[:-1]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5, weight_decay=0.01)
    model.train()
    for images, labels in batches(examples(), 3, 4):
        of_features = head.distribution(body(images))
        mean, deviation = of_features[:, :4], F.softplus(of_features[:, 4:])
        z = Normal(mean, deviation).rsample()
        scale = head.reference.scale
        of_class = Normal(head.reference.mean[labels], F.softplus(head.reference.deviation)[labels])
        divergence = kl_divergence(Normal(scale * mean, scale * deviation), of_class).sum(1).mean()
        length = (z**2).sum(1).sqrt().mean()
        optimizer.zero_grad()
        (F.cross_entropy(head.classifier(z), labels) + l2r * length + cmi * divergence).backward()
        optimizer.step()


@pytest.mark.parametrize(("l2r", "cmi"), [(0.3, 0.2), (0.3, 0.0), (0.0, 0.2)])
def test_training_is_that_of_the_written_loss(l2r: float, cmi: float) -> None:
    model, reference = with_head(), with_head()
    begin = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(4)
    FedSR(TRAINING, l2r, cmi).train(model, context(model, examples()))
    torch.manual_seed(4)
    by_hand(reference, l2r, cmi)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, reference.state_dict()[name], msg=name, rtol=1e-9, atol=1e-12)
    assert not torch.equal(model.state_dict()["6.distribution.weight"], begin["6.distribution.weight"])


def test_without_both_terms_it_is_local_sgd_of_that_network_bit_for_bit() -> None:
    """But for weight decay, the references of the classes are then not touched."""
    plain = LocalTraining(local_epochs=2, batch_size=4, lr=0.1, momentum=0.0)
    model, other = with_head(), with_head()
    for each, trainer in ((model, FedSR(plain, 0.0, 0.0)), (other, LocalSGD(plain))):
        torch.manual_seed(5)
        trainer.train(each, context(each, examples()))
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("key", ["l2r", "cmi"])
@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
def test_impossible_weights_are_refused(key: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"^strategy\.{key}={value} is not possible: choose a number of at least 0\.$"):
        FedSR(TRAINING, **{"l2r": 0.1, "cmi": 0.1, key: value})
