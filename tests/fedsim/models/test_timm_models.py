"""timm's classifiers by name, for the images and classes of the data."""

from collections.abc import Callable

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.models import build_model, timm_model
from fedsim.models.classifier import classifier_of, logit_layers

MakeSettings = Callable[..., Settings]


def test_any_network_of_timm_is_a_choice(small_settings: MakeSettings) -> None:
    settings = small_settings("model=timm/test_vit", "norm=ln")
    assert settings.model["name"] == "timm/test_vit"
    model = build_model(settings, 7, (3, 32, 32))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)  # its own size is 160
    assert model.pos_embed.shape[1] == 2 * 2 + 1
    assert classifier_of(model, "x")[0] == "head"


def test_images_of_one_channel_and_of_any_size_for_convolutions() -> None:
    assert timm_model(7, (1, 40, 32), "test_resnet")(torch.zeros(2, 1, 40, 32)).shape == (2, 7)


def test_the_weights_are_those_of_the_seed(small_settings: MakeSettings) -> None:
    one, two, other = (
        build_model(small_settings("model=timm/test_resnet", f"seed={seed}"), 5).state_dict() for seed in (0, 0, 1)
    )
    matrices = [name for name, tensor in one.items() if tensor.dim() > 1]
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    assert not any(torch.equal(one[name], other[name]) for name in matrices)


def test_a_norm_leaves_the_activation_in_timms_batch_norms(small_settings: MakeSettings) -> None:
    written = timm_model(5, (3, 32, 32), "test_efficientnet")
    acts = [type(layer.act) for layer in written.modules() if isinstance(layer, BatchNormAct2d)]
    assert nn.SiLU in acts
    model = build_model(small_settings("model=timm/test_efficientnet", "norm=gn", "norm.groups=1"), 5)
    kinds = [type(layer) for layer in model.modules()]
    assert not any(issubclass(kind, nn.modules.batchnorm._BatchNorm) for kind in kinds)
    assert kinds.count(nn.GroupNorm) == len(acts)
    assert kinds.count(nn.SiLU) >= acts.count(nn.SiLU)


def test_what_timm_has_not_is_refused_with_what_it_has() -> None:
    with pytest.raises(UserError, match=r"^model=timm/resnet_50 is not known: choose .*, such as .*resnet50"):
        timm_model(10, (3, 224, 224), "resnet_50")


def test_what_timm_cannot_build_is_refused() -> None:
    with pytest.raises(UserError, match=r"^model=timm/xcit_nano_12_p16_224 cannot be built for images of 28x28 with 3"):
        timm_model(10, (3, 28, 28), "xcit_nano_12_p16_224")


def test_a_size_that_the_network_takes_is_advised(small_settings: MakeSettings) -> None:
    with pytest.raises(UserError, match=r"cannot take images of 28x28 .*choose dataset\.image_size=32, or another"):
        build_model(small_settings("model=timm/test_vit", "norm=ln"), 10)


def test_two_classifiers_whose_logits_are_averaged_are_not_one(small_settings: MakeSettings) -> None:
    words = ("model=timm/deit_tiny_distilled_patch16_224", "norm=ln")
    model = build_model(small_settings(*words), 10, (3, 32, 32))
    assert set(logit_layers(model)) == {"head", "head_dist"}
    with pytest.raises(UserError, match=r"^strategy=fedper needs a network whose logits come out of one linear layer"):
        classifier_of(model, "strategy=fedper")
