"""What the table says of the norms is what the layers in the models do: nothing that normalizes is forgotten."""

import copy
import re
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.core.errors import UserError
from fedsim.models.freeze import train_only
from fedsim.norms import ErasingLayer, norm_names, single_values_refused, use_norm
from fedsim.norms.registry import LAYERS, TABLE, norm_layers, statistics_layers
from tests.fedsim.norms.test_every_norm import IMAGES, IN_RESNETS_ONLY, NOT_IN_RESNETS, small, three_stages

NORM = {norm.name: norm for norm in TABLE}
WITH_OPTIONS = {"bcn": {"estimated": True}, "powernorm": {"groups": 4}}
"""Options with which a norm puts further layers into a model"""


def models_with(name: str) -> list[nn.Module]:
    models = [small(name)] if name in IN_RESNETS_ONLY else [small(name), *_resnets(name)]
    if name in WITH_OPTIONS:
        models.append(use_norm(small("bn"), name, **WITH_OPTIONS[name]))
    return models


def _resnets(name: str) -> list[nn.Module]:
    return [] if name in NOT_IN_RESNETS else [use_norm(three_stages(), name)]


def spread(layer: nn.Module, given: torch.Tensor) -> float:
    """Of what the layer makes of a batch, once running statistics have had the time to follow it."""
    layer = copy.deepcopy(layer).train()
    with torch.no_grad():
        for _ in range(40):
            output = layer(given)
    return output.std().item()


def normalizing(model: nn.Module) -> list[nn.Module]:
    """One layer of each type without layers of its own whose output does not grow as its input does, by trying."""
    leaves = list({type(module): module for module in model.modules() if not list(module.children())}.values())
    seen: dict[nn.Module, torch.Tensor] = {}

    def remember(leaf: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        seen.setdefault(leaf, args[0])

    hooks = [leaf.register_forward_pre_hook(remember) for leaf in leaves]
    with torch.no_grad():
        model.train()(IMAGES)
    for hook in hooks:
        hook.remove()
    return [leaf for leaf, given in seen.items() if spread(leaf, 100 * given) < 10 * spread(leaf, given)]


@pytest.mark.parametrize("name", norm_names())
def test_every_layer_that_normalizes_is_known(name: str) -> None:
    models = models_with(name)
    own = tuple(kind for layer in NORM[name].layers for kind in layer.types)
    found = [layer for model in models for layer in normalizing(model)]
    assert not {type(layer) for layer in found if not isinstance(layer, norm_layers())}
    assert not {type(layer) for layer in found if not isinstance(layer, own)}
    assert not {kind for kind in own if not any(isinstance(layer, kind) for layer in found)}


@pytest.mark.parametrize("name", norm_names())
def test_every_layer_with_running_statistics_is_known(name: str) -> None:
    """A buffer in the state is one; what is held constant (``affine=False``) is in no state."""
    for model in models_with(name):
        for layer in model.modules():
            stored = layer.state_dict().keys() - dict(layer.named_parameters()).keys()
            own = {name for name in stored if "." not in name}
            assert bool(own) == isinstance(layer, statistics_layers()), type(layer)


@pytest.mark.parametrize("name", norm_names())
def test_training_the_norms_trains_every_parameter_that_a_norm_brings(name: str) -> None:
    convolutions = (nn.Conv2d, nn.Linear, ErasingLayer)
    for model in models_with(name):
        others = [layer for layer in model.modules() if not isinstance(layer, convolutions)]
        brought = {id(each) for layer in others for each in layer.parameters(recurse=False)}
        if brought:
            trained = {id(each) for each in train_only(model, "norm").parameters() if each.requires_grad}
            assert trained == brought


def test_the_names_are_in_order_and_each_there_once() -> None:
    assert [norm.name for norm in TABLE] == norm_names()
    assert len({norm.name for norm in TABLE}) == len(TABLE)


def test_a_layer_is_described_once() -> None:
    assert len({layer.layer for layer in LAYERS}) == len(LAYERS)


@pytest.mark.parametrize("name", norm_names())
def test_what_has_statistics_says_how_a_batch_moves_them(name: str) -> None:
    """But BatchNorm, which measures that itself."""
    for model in models_with(name):
        for layer in NORM[name].layers:
            made = next((each for each in model.modules() if isinstance(each, layer.types)), None)
            if made is not None and layer.has_statistics and layer.layer is not _BatchNorm:
                assert layer.of_a_batch is not None
                assert layer.of_a_batch(IMAGES).keys() <= dict(made.named_buffers()).keys()


def training_on_one_image(model: nn.Module) -> torch.Tensor:
    return model.train()(IMAGES[:1])  # type: ignore[no-any-return]


def torch_refuses(model: nn.Module) -> bool:
    try:
        training_on_one_image(copy.deepcopy(model))
    except ValueError as error:
        return str(error).startswith("Expected more than 1 value per channel when training")
    return False


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("name", sorted({*norm_names()} - {"evonorm_b0"}))
def test_one_image_at_a_time_is_refused_where_torch_refuses_it(name: str) -> None:
    sentence = f"batch_size=1 gives norm={name} no batch to normalize over: choose at least 2, or another norm."
    for model in models_with(name):
        before = hooks(model)
        refused = pytest.raises(UserError, match=f"^{re.escape(sentence)}$") if torch_refuses(model) else nullcontext()
        with refused, single_values_refused(model, name):
            training_on_one_image(model)
        assert hooks(model) == before


def test_it_is_refused_too_where_evonorm_would_divide_by_a_deviation_of_zero() -> None:
    model = use_norm(nn.Sequential(nn.AvgPool2d(9), nn.BatchNorm2d(3), nn.ReLU()), "evonorm_b0")
    with pytest.raises(UserError, match=r"^batch_size=1 gives"), single_values_refused(model, "evonorm_b0"):
        training_on_one_image(model)
    with single_values_refused(model, "evonorm_b0"):
        model.train()(IMAGES)
