"""The seed decides the initial weights, whatever was drawn before and whatever the norm."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.core.seeding import derive_seed
from fedsim.models import CNNSmall, build_model

MakeSettings = Callable[..., Settings]


def test_the_weights_are_those_torch_draws_with_the_derived_seed(small_settings: MakeSettings) -> None:
    torch.rand(7)
    built = build_model(small_settings("seed=3"), num_classes=10).state_dict()
    torch.manual_seed(derive_seed(3, "model"))
    expected = CNNSmall(10).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in built.items())
    other = build_model(small_settings("seed=4"), num_classes=10).state_dict()
    assert not torch.equal(other["head.weight"], expected["head.weight"])


def test_building_leaves_the_global_generator_alone(small_settings: MakeSettings) -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    build_model(small_settings("seed=3", "attention=se", "head=etf"), num_classes=10)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("choice", ["norm=gn", "norm=none", "norm=sws", "attention=se", "attention=scse"])
def test_every_choice_starts_from_the_same_convolutions(choice: str, small_settings: MakeSettings) -> None:
    changed = build_model(small_settings(choice), num_classes=10).state_dict()
    plain = build_model(small_settings(), num_classes=10).state_dict()
    weights = [name for name, tensor in plain.items() if tensor.dim() > 1]
    assert len(weights) == 4
    assert all(torch.equal(changed[name], plain[name]) for name in weights)


def test_the_number_of_classes_is_the_datasets(small_settings: MakeSettings) -> None:
    for head in ("linear", "cosine", "etf"):
        assert build_model(small_settings(f"head={head}"), num_classes=7).head.out_features == 7


@pytest.mark.parametrize(
    ("group", "option", "sentence"),
    [
        ("model", {"width": 64}, r"model\.width=64 is not an option of cnn_small: leave it out\."),
        ("norm", {"groups": 2}, r"norm\.groups=2 is not an option of bn: leave it out\."),
        ("attention", {"reduction": 2}, r"attention\.reduction=2 is not an option of none: leave it out\."),
        ("head", {"scale": 2.0}, r"head\.scale=2\.0 is not an option of linear: leave it out\."),
        ("reparam", {"a": 2.0}, r"reparam\.a=2\.0 is not an option of none: leave it out\."),
        ("reparam", {"train_only": "norm"}, r"reparam\.train_only=norm is not an option of none: leave it out\."),
    ],
)
def test_an_option_that_is_none_is_refused(
    group: str, option: dict[str, object], sentence: str, small_settings: MakeSettings
) -> None:
    settings = small_settings()
    with pytest.raises(UserError, match=f"^{sentence}$"):
        build_model(replace(settings, **{group: {**getattr(settings, group), **option}}), num_classes=10)
