"""Where an attention stands, and that it stands there whatever the norm."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.resnet import Bottleneck
from torchvision.models.vision_transformer import VisionTransformer

from fedsim.attention import EfficientLocalAttention, SpatialChannelSE, SqueezeExcitation, use_ela, use_scse, use_se
from fedsim.config.composition import choices
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.models import CNN6, AlexNet, CNNSmall, ResNet20, build_model, mobilenet_v2, resnet18, vgg11
from fedsim.norms import ScaledResidual, ScaledWSConv2d, use_ibn_b, use_scaled_ws
from fedsim.norms.ibn import NormalizedSum

ATTENTIONS = {"se": SqueezeExcitation, "scse": SpatialChannelSE, "ela": EfficientLocalAttention}
HIDDEN = torch.randn((2, 64, 6, 6), generator=torch.Generator().manual_seed(0))
WITHOUT_PLACES = ("dse", "ibn_a", "ibn_b")
"""Norms that cannot stand in a network without residual stages, or leave no place in it."""


def places(model: nn.Module) -> list[str]:
    return [path for path, layer in model.named_modules() if isinstance(layer, SqueezeExcitation)]


def seen_by_attention(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """The feature maps that go into each attention."""
    seen: list[torch.Tensor] = []
    for layer in model.modules():
        if isinstance(layer, SqueezeExcitation):
            layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.eval()(images)
    return seen


def test_behind_each_activation_and_before_the_pooling() -> None:
    model = use_se(CNNSmall(image_shape=(3, 16, 16)))
    assert places(model) == ["features.2.1", "features.6.1", "features.10.1"]
    seen = seen_by_attention(model, torch.randn((2, 3, 16, 16), generator=torch.Generator().manual_seed(0)))
    assert [each.shape[1:] for each in seen] == [(32, 16, 16), (64, 8, 8), (64, 4, 4)]
    assert all(each.min() == 0 for each in seen)


@pytest.mark.parametrize("make", [use_se, use_scse, use_ela])
@pytest.mark.parametrize("network", [lambda: CNNSmall(image_shape=(3, 16, 16)), resnet18])
def test_a_model_in_float64_stays_in_it(
    make: Callable[[nn.Module], nn.Module], network: Callable[[], nn.Module]
) -> None:
    torch.manual_seed(0)
    afterwards = make(network()).double().eval()
    torch.manual_seed(0)
    model = make(network().double().eval())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(model(images), afterwards(images))
    assert all(parameter.is_meta for parameter in make(network().to("meta")).parameters())


@pytest.mark.parametrize(("model", "count"), [(CNN6(), 3), (AlexNet(image_shape=(3, 63, 63)), 5), (vgg11(), 8)])
def test_every_convolution_of_a_plain_network_has_one(model: nn.Module, count: int) -> None:
    names = set(model.state_dict())
    assert len(places(use_se(model))) == count
    assert names < set(model.state_dict())  # what was there keeps its name


def test_at_the_end_of_residual_branches_and_nowhere_else() -> None:
    stages = [f"layer{stage}.{block}.bn2.1" for stage in range(1, 5) for block in range(2)]
    assert places(use_se(resnet18())) == stages
    assert places(use_se(ResNet20())) == [f"features.{place}.bn2.1" for place in range(3, 12)]
    assert places(use_se(nn.Sequential(Bottleneck(64, 16)))) == ["0.bn3.1"]


def test_a_residual_block_computes_its_branch_with_attention() -> None:
    torch.manual_seed(0)
    plain = resnet18().layer1[0].eval()
    block = use_se(nn.Sequential(copy.deepcopy(plain)))[0].eval()
    attention = block.bn2[1]
    branch = plain.bn2(plain.conv2(torch.relu(plain.bn1(plain.conv1(HIDDEN)))))
    torch.testing.assert_close(block(HIDDEN), torch.relu(attention(branch) + HIDDEN))


def test_a_scaled_block_scales_what_the_attention_leaves() -> None:
    torch.manual_seed(0)
    model = use_se(use_scaled_ws(resnet18(), residual="nf", alpha=0.5))
    block = model.layer1[0]
    assert isinstance(block, ScaledResidual)
    nn.init.constant_(block.skip_gain, 0.7)
    inner = block.block
    branch = inner.bn2[1](inner.conv2(torch.relu(inner.conv1(HIDDEN))))
    torch.testing.assert_close(block(HIDDEN), torch.relu(HIDDEN + 0.7 * 0.5 * branch))


def test_a_normalized_sum_adds_what_the_attention_leaves() -> None:
    torch.manual_seed(0)
    block = use_se(use_ibn_b(resnet18())).eval().layer1[1]
    assert isinstance(block, NormalizedSum)
    inner = block.block
    branch = inner.bn2[1](inner.bn2[0](inner.conv2(torch.relu(inner.bn1(inner.conv1(HIDDEN))))))
    torch.testing.assert_close(block(HIDDEN), torch.relu(block.norm(branch + HIDDEN)))


def test_in_mobilenet_behind_the_depthwise_convolution() -> None:
    torch.manual_seed(0)
    model = use_se(mobilenet_v2(10, (3, 32, 32)))
    assert len(places(model)) == 17
    assert places(model)[:2] == ["features.1.conv.0.2.1", "features.2.conv.1.2.1"]
    seen = seen_by_attention(model, torch.randn((2, 3, 32, 32)))
    depthwise = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d) and layer.groups > 1]
    assert [each.shape[1] for each in seen] == [layer.out_channels for layer in depthwise]
    assert all(each.min() == 0 for each in seen)


@pytest.mark.parametrize(
    ("model", "where"),
    [
        (models.densenet121(), r"features\.denseblock1\.denselayer1\.conv1 is not"),
        (models.squeezenet1_1(), r"features\.3\.squeeze is not"),
        (models.shufflenet_v2_x0_5(), r"stage2\.0\.branch1\.0 is not"),
        (VisionTransformer(32, 16, 1, 2, 16, 16), "conv_proj is not"),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.ReLU()), "0 is not"),
        (nn.Sequential(nn.Linear(3, 8), nn.ReLU()), "there is none"),
    ],
    ids=["densenet", "squeezenet", "shufflenet", "transformer", "pooling", "linear"],
)
def test_a_network_without_places_is_refused(model: nn.Module, where: str) -> None:
    with pytest.raises(UserError, match=rf"^attention=se stands at .*, and {where}: choose another model, or "):
        use_se(model)


@pytest.mark.parametrize("norm", [name for name in choices("norm") if name not in WITHOUT_PLACES])
def test_it_has_the_same_places_with_every_norm(norm: str, small_settings: Callable[..., Settings]) -> None:
    model = build_model(small_settings("attention=se", f"norm={norm}"), 10)
    assert places(model) == ["features.2.1", "features.6.1", "features.10.1"]


def test_its_own_convolutions_are_not_standardized(small_settings: Callable[..., Settings]) -> None:
    model = build_model(small_settings("attention=se", "norm=sws", "model=resnet20"), 10)
    kinds = [type(layer) for layer in model.modules()]
    assert (kinds.count(ScaledWSConv2d), kinds.count(nn.Conv2d)) == (19, 2 * 9)


@pytest.mark.parametrize(
    ("model", "norm"),
    [
        *(("cnn_small", norm) for norm in ("bn", "sws", "evonorm_s0", "gn")),
        # evonorm_s0 is refused there, with or without attention
        *(pytest.param("resnet18", norm, marks=pytest.mark.nightly) for norm in ("bn", "sws", "gn")),
    ],
)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_network_with_attention_learns_and_can_be_copied(
    attention: str, model: str, norm: str, small_settings: Callable[..., Settings]
) -> None:
    def build(seed: int) -> nn.Module:
        settings = small_settings(f"attention={attention}", f"model={model}", f"norm={norm}", f"seed={seed}")
        return build_model(settings, 10, (3, 8, 8))

    network, other = build(0), build(1)
    attentions = [layer for layer in network.modules() if isinstance(layer, ATTENTIONS[attention])]
    assert len(attentions) == (3 if model == "cnn_small" else 8)
    images = torch.randn((4, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    network(images).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert all(any(parameter.grad.any() for parameter in layer.parameters()) for layer in attentions)
    logits = network.eval()(images)
    assert not torch.equal(other.eval()(images), logits)
    other.load_state_dict(network.state_dict())
    for copied in (other, copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(copied(images), logits)
