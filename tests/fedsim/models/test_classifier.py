import pytest
import torch
from torch import nn

from fedsim.errors import UserError
from fedsim.models import CNNSmall, resnet18
from fedsim.models.classifier import classifier_of, features_seen, find_classifier


def test_it_is_the_last_linear_layer() -> None:
    small, residual = CNNSmall(), resnet18()
    assert find_classifier(small) == ("head", small.head)
    assert classifier_of(residual, "x") == ("fc", residual.fc)


def test_features_are_what_goes_into_it() -> None:
    model, images = CNNSmall().eval(), torch.randn(3, 3, 28, 28)
    with features_seen(model.head) as seen, torch.no_grad():
        model(images)
    assert torch.allclose(seen[0], model.features(images), atol=1e-6)
    model(images)
    assert len(seen) == 1


def test_a_network_without_one_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1))
    assert find_classifier(network) is None
    with pytest.raises(UserError, match="tta=cafa needs a network that ends in a linear layer, and Sequential has"):
        classifier_of(network, "tta=cafa")
