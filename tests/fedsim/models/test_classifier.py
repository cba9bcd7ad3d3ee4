"""The classifier is what makes the logits, on networks whose modules are registered in every order."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models

from clients.adaptive_clipping import all_but_last_linear
from fedsim.core.errors import UserError
from fedsim.heads import use_cosine, use_etf, use_local_generic
from fedsim.models import CNN6, AlexNet, CNNSmall, ResNet20, resnet18
from fedsim.models.classifier import (
    class_layers,
    classifier_of,
    features_seen,
    known_ends,
    logit_layers,
    note_classifier,
)
from fedsim.models.freeze import train_only
from fedsim.reparam.weight_compander import use_weight_compander
from strategies import FedPer

SHAPE = (2, 3, 16, 16)


class HeadFirst(nn.Module):
    """A network as people write it: what comes last was registered first, and there is another of the same shape."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.head = nn.Linear(classes, classes)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.proj = nn.Linear(16, classes)
        self.twin = nn.Linear(classes, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.twin(torch.relu(self.proj(self.body(images).flatten(1))))))


class Answering(nn.Module):
    """Two linear layers, a convolution and a matrix on features (N, 4, 1, 1), combined by ``how``."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.one, self.two, self.wide = nn.Linear(4, 10), nn.Linear(4, 10), nn.Linear(4, 30)
        self.scale, self.rows = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.randn(10, 4))
        self.row = nn.Parameter(torch.ones(1, 10))
        self.frozen = nn.Parameter(torch.randn(10, 10), requires_grad=False)
        self.body, self.conv = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 10, 1)
        self.last_registered = nn.Linear(4, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        map_ = self.body(images)
        features = self.last_registered(map_.mean((2, 3)))
        answers = {
            "plain": lambda: self.one(features),
            "view": lambda: self.one(features)[:, None].squeeze(1),
            "scaled": lambda: self.one(features) * self.scale.exp() / 3,
            "in place": lambda: self.one(features).mul_(2),
            "row": lambda: self.one(features) * self.row,
            "log": lambda: F.log_softmax(self.one(features), 1),
            "sum": lambda: self.one(features) + self.two(features),
            "twice": lambda: (self.one(features) + self.one(-features)) / 2,
            "places": lambda: self.one(map_.flatten(2).mT).mean(1),
            "maxout": lambda: self.wide(features).reshape(-1, 10, 3).amax(2),
            "conv": lambda: self.conv(map_).mean((2, 3)),
            "matrix": lambda: F.linear(features, self.rows),
            "tied": lambda: F.linear(features, self.conv.weight.flatten(1)) * 2,
            "frozen": lambda: F.linear(self.one(features), self.frozen),
            "pixels": lambda: self.one(features) + images.flatten(1)[:, :10],
        }
        return answers[self.how]()


def noted(model: nn.Module, classes: int | None = 10, shape: tuple[int, ...] = SHAPE) -> nn.Module:
    note_classifier(model.eval(), torch.zeros(shape), classes)
    return model


def test_it_is_what_makes_the_logits_and_not_what_was_registered_last() -> None:
    model = noted(HeadFirst())
    assert classifier_of(model, "x") == ("head", model.head)
    assert class_layers(model, 10) == ["head"]
    assert FedPer(model).personal == {"head.weight", "head.bias"}
    clipped = {id(parameter) for parameter in all_but_last_linear(model)}
    assert [name for name, each in model.named_parameters() if id(each) not in clipped] == ["head.weight", "head.bias"]
    use_weight_compander(model, head=False)
    assert [type(each).__name__ for each in (model.head, model.proj)] == ["Linear", "CompandedLinear"]


@pytest.mark.parametrize(
    ("name", "make", "size"),
    [
        ("head", CNN6, 28),
        ("head", AlexNet, 64),
        ("head", ResNet20, 28),
        ("fc", resnet18, 28),
        ("fc", lambda: models.googlenet(num_classes=10, init_weights=False), 64),
        ("heads.head", lambda: models.vit_b_32(num_classes=10), 224),
        ("classifier", lambda: models.densenet121(num_classes=10), 64),
        ("classifier.3", lambda: models.mobilenet_v3_small(num_classes=10), 64),
    ],
)
def test_of_known_networks_it_is_the_one_that_is_called_so(name: str, make: Callable[[], nn.Module], size: int) -> None:
    with torch.device("meta"):  # shapes and the graph are enough
        model = noted(make(), shape=(2, 3, size, size))
    assert classifier_of(model, "x")[0] == name


@pytest.mark.parametrize("how", ["plain", "view", "scaled", "row", "in place", "log"])
def test_what_has_no_weights_may_follow(how: str) -> None:
    assert classifier_of(noted(Answering(how)), "x")[0] == "one"


@pytest.mark.parametrize(
    ("how", "words", "layers"),
    [
        ("sum", "Linear one and Linear two", ["one", "two"]),
        ("places", "several outputs of Linear one for each image", ["one"]),
        ("maxout", "Linear wide of 30 rows for 10 classes", ["wide"]),
        ("conv", "Conv2d conv", ["conv"]),
        ("matrix", "weights that are in no layer", []),
        ("frozen", "weights that are in no layer", []),
        ("pixels", "the images as well", ["one"]),
    ],
)
def test_anything_else_is_refused(how: str, words: str, layers: list[str]) -> None:
    model = noted(Answering(how))
    wanted = "tta=cafa needs a network whose logits come out of one linear layer, and those of Answering come from"
    with pytest.raises(UserError, match=rf"^{wanted} {words}: choose another model\.$"):
        classifier_of(model, "tta=cafa")
    with pytest.raises(UserError, match=r"^strategy=fedper needs .* come from"):
        FedPer(model)
    assert class_layers(model, 10) == []
    assert [*logit_layers(model)] == layers


@pytest.mark.parametrize(("how", "names"), [("matrix", ["rows"]), ("tied", ["conv.weight"]), ("frozen", ["frozen"])])
def test_a_matrix_without_a_layer_is_spared_and_not_the_layer_in_front_of_it(how: str, names: list[str]) -> None:
    model = noted(Answering(how))
    clipped = {id(parameter) for parameter in all_but_last_linear(copy.deepcopy(model))}
    assert not clipped & {id(parameter) for parameter in model.parameters()}  # those of the copy
    clipped = {id(parameter) for parameter in all_but_last_linear(model)}
    assert [name for name, parameter in model.named_parameters() if id(parameter) not in clipped] == names
    companded = use_weight_compander(model, head=False)
    assert not any(f"{name.removesuffix('.weight')}.a" in dict(companded.named_parameters()) for name in names)


def test_what_computes_first_may_do_so_without_gradients() -> None:
    class FixedBody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.body = nn.Linear(4, 10), nn.Conv2d(3, 4, 16)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                features = self.body(images).flatten(1)
            return self.head(features)

    ends = known_ends(noted(FixedBody()))
    assert ends is not None
    assert (ends.first, ends.classifier) == ("body", "head")


def test_a_layer_of_another_width_is_none() -> None:
    with pytest.raises(UserError, match=r"come from Linear head of 7 rows for 10 classes: choose"):
        classifier_of(noted(HeadFirst(7)), "x")
    assert classifier_of(noted(HeadFirst(7), None), "x")[0] == "head"


def test_squeezenets_convolution_is_spared_by_clipping_and_personal_to_nobody() -> None:
    model = noted(models.squeezenet1_1(num_classes=10), shape=(2, 3, 32, 32))
    clipped = {id(parameter) for parameter in all_but_last_linear(model)}
    spared = [name for name, each in model.named_parameters() if id(each) not in clipped]
    assert spared == ["classifier.1.weight", "classifier.1.bias"]
    with pytest.raises(UserError, match=r"those of SqueezeNet come from Conv2d classifier\.1: choose another model"):
        FedPer(model)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_knows_it_too(copied: object) -> None:
    assert classifier_of(copied(noted(HeadFirst())), "x")[0] == "head"  # type: ignore[operator]


def test_a_head_takes_its_place() -> None:
    for use in (use_cosine, use_etf):
        model = use(noted(HeadFirst()))
        assert classifier_of(model, "x") == ("head", model.head)
        assert type(model.head) is not nn.Linear
        assert type(model.proj) is nn.Linear
    model = use_local_generic(noted(HeadFirst()))
    assert classifier_of(model, "x") == ("head.generic", model.head.generic)
    assert class_layers(model, 10) == ["head.personal", "head.auxiliary", "head.generic"]
    assert [*logit_layers(model)] == ["head.generic"]


def test_only_it_is_trained_with_norm_and_head() -> None:
    model = train_only(noted(HeadFirst()), "norm_and_head")
    trained = {name.partition(".")[0] for name, each in model.named_parameters() if each.requires_grad}
    assert trained == {"head", "body"}


def test_features_are_what_goes_into_it() -> None:
    model, images = CNNSmall().eval(), torch.randn(3, 3, 28, 28)
    with features_seen(model.head) as seen, torch.no_grad():
        model(images)
    assert torch.allclose(seen[0], model.features(images), atol=1e-6)
    model(images)
    assert len(seen) == 1


class Choosy(nn.Module):
    """Takes nothing that could be guessed."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(21, 10), nn.Linear(10, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(images.reshape(2, 3, 7).reshape(2, 21) if images.dim() == 3 else images["x"]))  # type: ignore[call-overload]


def test_without_a_note_it_is_found_if_the_images_can_be_guessed() -> None:
    small = CNNSmall()
    assert classifier_of(small, "x") == ("head", small.head)
    assert classifier_of(HeadFirst(), "x")[0] == "head"
    assert FedPer(CNN6(10, (3, 32, 32))).personal == {"head.weight", "head.bias"}
    perceptron = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    assert classifier_of(perceptron, "x") == ("3", perceptron[3])
    with pytest.raises(UserError, match=r"is the classifier, one or two, is not known: call .*note"):
        classifier_of(Choosy(), "x")
    with pytest.raises(UserError, match="and those of Sequential come from no linear layer: choose another model"):
        classifier_of(nn.Sequential(nn.Conv2d(1, 1, 1)), "tta=cafa")
