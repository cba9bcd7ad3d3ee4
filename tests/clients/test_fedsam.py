"""FedSAM's client against its two passes, written out."""

import pytest
import torch
from torch.nn import functional as F

from clients import FedSAM
from fedsim.core.errors import UserError
from fedsim.methods.training import LocalTraining
from tests.clients.small import batches, context, examples, network

TRAINING = LocalTraining(local_epochs=2, batch_size=4, lr=0.1, momentum=0.0)


@pytest.mark.parametrize("eta", [0.0, 0.2])
def test_the_step_is_along_the_gradient_at_the_perturbed_weights(eta: float) -> None:
    rho, data, model, reference = 0.5, examples(), network(), network()
    FedSAM(TRAINING, rho=rho, eta=eta).train(model, context(model, data))

    parameters = list(reference.parameters())
    statistics = [network()[1].state_dict()]
    for images, labels in batches(data, 2, 4):
        reference.train()
        first = torch.autograd.grad(F.cross_entropy(reference(images), labels), parameters)
        statistics.append({name: each.clone() for name, each in reference[1].named_buffers()})
        scales = [each.detach().abs() + eta if eta else torch.ones_like(each) for each in parameters]
        length = sum((scale * gradient).square().sum() for scale, gradient in zip(scales, first, strict=True)) ** 0.5
        before = [each.detach().clone() for each in parameters]
        with torch.no_grad():
            for each, scale, gradient in zip(parameters, scales, first, strict=True):
                each += rho * scale**2 * gradient / length
        second = torch.autograd.grad(F.cross_entropy(reference(images), labels), parameters)
        with torch.no_grad():
            for each, start, gradient in zip(parameters, before, second, strict=True):
                each.copy_(start - 0.1 * gradient)
            for name, each in reference[1].named_buffers():
                each.copy_(statistics[-1][name])  # the second pass leaves no trace in them
    for (name, each), expected in zip(model.state_dict().items(), reference.state_dict().values(), strict=True):
        torch.testing.assert_close(each, expected, msg=name, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("rho", "eta", "key"), [(0.0, 0.0, "rho"), (0.1, -0.1, "eta"), (float("nan"), 0.0, "rho")])
def test_impossible_options_are_refused(rho: float, eta: float, key: str) -> None:
    with pytest.raises(UserError, match=rf"^strategy\.{key}=.* is not possible"):
        FedSAM(TRAINING, rho=rho, eta=eta)
