"""The projection and the trained scale of head=etf, against FedETF's formula in float64."""

import pytest
import torch
from torch import nn

from fedsim.core.errors import UserError
from fedsim.heads import ETFLinear, ProjectedETF, use_etf
from fedsim.methods.state_split import frozen_entries
from fedsim.models.classifier import class_layers, classifier_of, note_classifier


def network(features: int = 7) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, features), nn.ReLU(), nn.Linear(features, 4))
    note_classifier(model, torch.zeros(2, 6), 4)
    return model


@pytest.mark.parametrize(("projection", "dimensions"), [("classes", 4), ("features", 7)])
def test_logits_are_those_of_the_official_forward_pass(projection: str, dimensions: int) -> None:
    model = use_etf(network(), scale=3.0, learnable=True, projection=projection).double()
    assert isinstance(model, nn.Sequential)
    head = model[-1]
    assert isinstance(head, ProjectedETF)
    assert head.projection.weight.shape == (dimensions, 7)
    images = torch.randn(5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    feature = head.projection(model[:-1](images))
    feature = torch.div(feature, torch.norm(feature, p=2, dim=1, keepdim=True).clamp(min=1e-12))
    proto = head.frame.weight.T  # (dimensions, classes), as there
    torch.testing.assert_close(model(images), 3.0 * torch.matmul(feature, proto), rtol=1e-12, atol=1e-14)


def test_projection_and_scale_are_trained_and_the_frame_is_not() -> None:
    model = use_etf(network(), learnable=True, projection="classes")
    entries = {name for name in model.state_dict() if name.startswith("3.")}
    assert entries == {"3.projection.weight", "3.projection.bias", "3.frame.weight", "3.frame.scale"}
    assert frozen_entries(model) == {"3.frame.weight"}
    fixed = use_etf(network(), projection="classes")
    assert "3.frame.scale" not in fixed.state_dict()


@pytest.mark.parametrize("features", [7, 4], ids=["seven features", "as many features as classes"])
def test_the_frame_is_the_classifier_and_the_only_one(features: int) -> None:
    """With as many features as classes nothing but its place tells the projection from a classifier."""
    model = use_etf(network(features), projection="classes")
    name, layer = classifier_of(model, "test")
    assert name == "3.frame"
    assert isinstance(layer, ETFLinear)
    if features != 4:
        assert class_layers(model, 4) == ["3.frame"]


def test_another_projection_is_refused() -> None:
    with pytest.raises(UserError, match=r"^head\.projection=64 is not known: choose classes, features or null\.$"):
        use_etf(network(), projection="64")
