"""MOON's client against the contrastive loss, written out."""

import copy

import pytest
import torch
from torch.nn import functional as F

from clients import MOON, LocalSGD
from fedsim.core.errors import UserError
from fedsim.methods.training import LocalTraining
from tests.clients.small import batches, context, examples, network

TRAINING = LocalTraining(local_epochs=1, batch_size=4, lr=0.1, momentum=0.0)


def test_the_first_round_is_local_sgd_and_the_second_contrasts_with_both_models() -> None:
    mu, temperature, data, model, state = 2.0, 0.5, examples(), network(), {}
    MOON(TRAINING, mu=mu, temperature=temperature).train(model, context(model, data, seed=1, state=state))
    plain = network()
    LocalSGD(TRAINING).train(plain, context(plain, data, seed=1))
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), plain.parameters(), strict=True))

    received = network(seed=9)  # another global model in the second round
    reference, glob, previous = copy.deepcopy(received), copy.deepcopy(received).eval(), copy.deepcopy(model).eval()
    MOON(TRAINING, mu=mu, temperature=temperature).train(received, context(received, data, seed=2, state=state))
    reference.train()
    for images, labels in batches(data, 1, 4, seed=2):
        features = reference[:-1](images)
        near, far = (F.cosine_similarity(features, other[:-1](images).detach()) for other in (glob, previous))
        contrast = -(
            torch.exp(near / temperature) / (torch.exp(near / temperature) + torch.exp(far / temperature))
        ).log()
        loss = F.cross_entropy(reference[-1](features), labels) + mu * contrast.mean()
        found = torch.autograd.grad(loss, list(reference.parameters()))
        with torch.no_grad():
            for each, gradient in zip(reference.parameters(), found, strict=True):
                each -= 0.1 * gradient
    for (name, each), expected in zip(received.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(each, expected, msg=name, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("mu", "temperature", "key"), [(-1.0, 0.5, "mu"), (1.0, 0.0, "temperature")])
def test_impossible_options_are_refused(mu: float, temperature: float, key: str) -> None:
    with pytest.raises(UserError, match=rf"^strategy\.{key}=.* is not possible"):
        MOON(TRAINING, mu=mu, temperature=temperature)
