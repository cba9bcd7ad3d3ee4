"""A network that does not take the images, or answers with no logits, is refused when it is built."""

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.models import build_model
from fedsim.models.classifier import classifier_of

MakeSettings = Callable[..., Settings]
SMALL = (3, 28, 28)


class Answers(nn.Module):
    """A network that answers with anything: the wrong number of logits, a dictionary, something for each pixel."""

    def __init__(self, num_classes: int = 10, answer: str = "more") -> None:
        super().__init__()
        self.answer, self.body, self.fc = answer, nn.Conv2d(3, num_classes, 1), nn.Linear(10, 1000)

    def forward(self, images: torch.Tensor) -> object:
        map_ = self.body(images)
        if self.answer == "none":
            raise ValueError("that is\n  nothing. ")
        logits = map_.mean((2, 3))
        return {"more": self.fc(logits), "dictionary": {"out": logits}, "map": map_}[self.answer]


class Disturbing(nn.Module):
    """Draws from every generator and counts its calls whenever it is used."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.fc = nn.Linear(3, num_classes)
        self.register_buffer("calls", torch.zeros(()))
        self.fc.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1  # type: ignore[operator]
        logits: torch.Tensor = self.fc(images.mean((2, 3)))
        return logits + torch.rand(()) + random.random() + np.random.rand()


def own(settings: Settings, kind: type, **options: object) -> Settings:
    return replace(settings, model={"name": "mine", "_target_": f"{__name__}.{kind.__name__}", **options})


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("model", "size"),
    [("alexnet", 64), ("vgg11", 32), ("torchvision/vit_b_16", 224), ("torchvision/densenet121", 32)],
)
def test_a_network_that_needs_larger_images_says_how_large(model: str, size: int, small_settings: MakeSettings) -> None:
    settings = small_settings(f"model={model}")
    sized = replace(settings, dataset={**settings.dataset, "image_size": 28})
    sentence = rf"^model={model} cannot take images of 28x28 with 3 channels \(.+\): choose"
    with pytest.raises(UserError, match=rf"{sentence} dataset\.image_size={size}, or another model\.$"):
        build_model(sized, 10, SMALL)
    fixed = replace(settings, dataset={key: each for key, each in settings.dataset.items() if key != "image_size"})
    with pytest.raises(UserError, match=rf"{sentence} another model\.$"):
        build_model(fixed, 10, SMALL)


def test_the_size_that_is_advised_is_taken(small_settings: MakeSettings) -> None:
    assert build_model(small_settings("model=vgg11"), 10, (1, 32, 32))(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    build_model(small_settings("model=torchvision/densenet121"), 10, (3, 32, 32))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            "more",
            r"answers 2 images with numbers of shape \(2, 1000\), and not with 10 logits for each: choose another",
        ),
        ("map", r"answers 2 images with numbers of shape \(2, 10, 28, 28\), and not with 10 logits"),
        ("dictionary", "answers 2 images with dict, and not with 10 logits for each"),
        ("none", r"cannot take images of 28x28 with 3 channels \(ValueError: that is nothing\): choose another model"),
    ],
)
def test_what_does_not_answer_with_logits_is_refused(answer: str, words: str, small_settings: MakeSettings) -> None:
    with pytest.raises(UserError, match=f"^model=mine {words}"):
        build_model(own(small_settings(), Answers, answer=answer), 10, SMALL)


def test_nothing_is_disturbed(small_settings: MakeSettings) -> None:
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    model = build_model(own(small_settings(), Disturbing), 10, SMALL)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()
    assert model.calls == 0
    assert (model.training, model.fc.training) == (True, False)
    assert classifier_of(model, "x")[0] == "fc"


@pytest.mark.parametrize("network", ["googlenet", "inception_v3"])
def test_auxiliary_classifiers_are_left_out(network: str, small_settings: MakeSettings) -> None:
    model = build_model(small_settings(f"model=torchvision/{network}"), 10, (3, 96, 96))
    assert model.train()(torch.zeros(2, 3, 96, 96)).shape == (2, 10)
    assert not [name for name, _ in model.named_modules() if name.lower().startswith("aux")]
