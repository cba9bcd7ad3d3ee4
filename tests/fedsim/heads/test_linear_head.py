"""Which layer a head takes the place of, and that it is still the last linear layer for everything that asks."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.vision_transformer import VisionTransformer

from clients.adaptive_clipping import all_but_last_linear
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.heads import CosineLinear, ETFLinear, keep_linear, use_cosine, use_etf
from fedsim.methods.state_split import frozen_entries
from fedsim.models import CNNSmall, build_model

HEADS = {"cosine": (use_cosine, CosineLinear), "etf": (use_etf, ETFLinear)}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize(
    ("model", "path", "shape"),
    [
        (CNNSmall, "head", (10, 576)),
        (lambda: models.resnet18(num_classes=7), "fc", (7, 512)),
        (lambda: models.mobilenet_v2(num_classes=7), "classifier.1", (7, 1280)),
        (lambda: VisionTransformer(32, 16, 1, 2, 16, 16, num_classes=7), "heads.head", (7, 16)),
        (lambda: nn.Linear(9, 7), "", (7, 9)),
    ],
    ids=["cnn_small", "resnet18", "mobilenet_v2", "transformer", "linear"],
)
def test_it_stands_in_the_place_of_the_last_linear_layer(
    name: str, model: Callable[[], nn.Module], path: str, shape: tuple[int, int]
) -> None:
    use, kind = HEADS[name]
    plain = model()
    linear = sum(isinstance(layer, nn.Linear) for layer in plain.modules())
    changed = use(plain)  # type: ignore[operator]
    assert type(changed.get_submodule(path)) is kind
    assert changed.get_submodule(path).weight.shape == shape
    assert sum(isinstance(layer, nn.Linear) for layer in changed.modules()) == linear


@pytest.mark.parametrize("name", HEADS)
def test_a_network_without_a_linear_layer_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"^head={name} needs .*, and those of SqueezeNet come from no linear"):
        HEADS[name][0](models.squeezenet1_1())  # type: ignore[operator]


def test_linear_leaves_the_model_alone() -> None:
    model = CNNSmall()
    assert keep_linear(model) is model
    assert type(model.head) is nn.Linear


@pytest.mark.parametrize("choice", ["head=linear", "head=cosine", "head=etf", "head=cosine head.learnable=true"])
def test_clipping_spares_it(choice: str, small_settings: Callable[..., Settings]) -> None:
    model = build_model(small_settings(*choice.split(), "attention=se", "norm=sws"), 10)
    clipped = {id(parameter) for parameter in all_but_last_linear(model)}
    spared = {name for name, parameter in model.named_parameters() if id(parameter) not in clipped}
    assert spared == {name for name, _ in model.named_parameters() if name.startswith("head.")}
    assert "head.weight" in spared


@pytest.mark.parametrize(
    ("choice", "trained"),
    [
        ("head=linear", {"head.weight", "head.bias"}),
        ("head=cosine", {"head.weight"}),
        ("head=cosine head.learnable=true", {"head.weight", "head.scale"}),
        ("head=etf", set()),
    ],
)
def test_train_only_trains_of_it_what_can_be_trained(
    choice: str, trained: set[str], small_settings: Callable[..., Settings]
) -> None:
    model = build_model(small_settings(*choice.split(), "train_only=norm_and_head"), 10)
    left = {name for name, _ in model.named_parameters()} - frozen_entries(model)
    norms = {f"features.{place}.{name}" for place in (1, 5, 9) for name in ("weight", "bias")}
    assert left == norms | trained


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_a_scale_that_is_not_above_zero_is_refused(name: str, scale: float) -> None:
    with pytest.raises(UserError, match=rf"^head\.scale={scale} is not possible: choose a number above 0\.$"):
        HEADS[name][0](CNNSmall(), scale=scale)  # type: ignore[operator]


@pytest.mark.parametrize("name", HEADS)
def test_the_loss_can_be_lowered_through_it(name: str) -> None:
    torch.manual_seed(0)
    use, _ = HEADS[name]
    model = use(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)))  # type: ignore[operator]
    inputs, labels = torch.randn(12, 5), torch.arange(12) % 3
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(100):
        loss = nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
