"""FedDyn's client against the gradient of its loss, written out."""

import pytest
import torch
from torch.nn import functional as F

from clients import FedDyn
from fedsim.core.errors import UserError
from fedsim.messages.arrays import to_tensors
from fedsim.methods.training import LocalTraining
from tests.clients.small import batches, context, examples, network

TRAINING = LocalTraining(local_epochs=2, batch_size=4, lr=0.1, momentum=0.0)


def test_two_rounds_minimize_the_dynamically_regularized_loss() -> None:
    alpha, data, model, state = 0.3, examples(), network(), {}
    reference = network()
    gradients = {name: torch.zeros_like(each) for name, each in reference.named_parameters()}
    for round in (1, 2):
        mine = context(model, data, seed=round, state=state)
        FedDyn(TRAINING, alpha=alpha).train(model, mine)

        start = {name: each.detach().clone() for name, each in reference.named_parameters()}
        reference.train()
        for images, labels in batches(data, 2, 4, seed=round):
            loss = F.cross_entropy(reference(images), labels)
            for name, each in reference.named_parameters():
                loss = loss - (gradients[name] * each).sum() + alpha / 2 * (each - start[name]).square().sum()
            found = torch.autograd.grad(loss, list(reference.parameters()))
            with torch.no_grad():
                for each, gradient in zip(reference.parameters(), found, strict=True):
                    each -= 0.1 * gradient
        for name, each in reference.named_parameters():
            gradients[name] = gradients[name] - alpha * (each.detach() - start[name])
        for (name, each), expected in zip(model.named_parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(each, expected, msg=name)
        kept = to_tensors(state["gradient"])  # type: ignore[arg-type]
        assert kept.keys() == gradients.keys()
        for name, gradient in kept.items():
            torch.testing.assert_close(gradient, gradients[name], msg=name)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("inf")])
def test_an_impossible_alpha_is_refused(alpha: float) -> None:
    with pytest.raises(UserError, match=r"^strategy\.alpha=.* is not possible: choose a number above 0\."):
        FedDyn(TRAINING, alpha=alpha)
