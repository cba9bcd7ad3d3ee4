"""FedETF's client against the official loss, written out in float64."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clients import FedETF, LocalSGD
from datasets.examples import Examples
from fedsim.core.errors import UserError
from fedsim.heads import ProjectedETF, use_etf
from fedsim.methods.training import LocalTraining
from tests.clients.small import batches, context, examples, network

TRAINING = LocalTraining(local_epochs=2, batch_size=4, lr=0.1, momentum=0.0)


def fixed_head() -> nn.Sequential:
    torch.manual_seed(0)
    model = use_etf(network().float(), scale=2.0, learnable=True, projection="classes").double()
    assert isinstance(model, nn.Sequential)
    return model


def of_two_classes() -> Examples:
    data = examples()
    return Examples(data.images, data.labels.clamp(max=1), data.transform)


def test_training_is_that_of_the_official_code_also_for_classes_without_images() -> None:
    model, reference, data = fixed_head(), fixed_head(), of_two_classes()
    FedETF(TRAINING, gamma=1.0).train(model, context(model, data))
    head = reference[-1]
    assert isinstance(head, ProjectedETF)
    spc = data.labels.bincount(minlength=3)
    assert spc[2] == 0
    spc = torch.where(spc > 0, spc, 1)
    trained = [parameter for parameter in reference.parameters() if parameter.requires_grad]
    reference.train()
    for images, labels in batches(data, 2, 4):
        feature = head.projection(reference[:-1](images))
        feature = feature / torch.norm(feature, p=2, dim=1, keepdim=True).clamp(min=1e-12)
        logits = head.frame.scale * torch.matmul(feature, head.frame.weight.T)
        found = torch.autograd.grad(F.cross_entropy(logits + spc.double().log(), labels), trained)
        with torch.no_grad():
            for each, gradient in zip(trained, found, strict=True):
                each -= 0.1 * gradient
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, reference.state_dict()[name], msg=name, rtol=1e-9, atol=1e-12)
    assert torch.equal(model.state_dict()["6.frame.weight"], fixed_head().state_dict()["6.frame.weight"])
    assert model.state_dict()["6.frame.scale"] != 2.0


def test_with_gamma_0_it_is_local_sgd_bit_for_bit() -> None:
    model, plain = fixed_head(), fixed_head()
    metrics = FedETF(TRAINING, gamma=0.0).train(model, context(model, of_two_classes()))
    assert metrics == LocalSGD(TRAINING).train(plain, context(plain, of_two_classes()))
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_an_impossible_gamma_is_refused() -> None:
    with pytest.raises(UserError, match=r"^strategy\.gamma=-1\.0 is not possible: choose a number of at least 0\.$"):
        FedETF(TRAINING, gamma=-1.0)
