from collections.abc import Callable

import pytest
import torch
from torch import nn

from fedsim.config.composition import compose
from fedsim.config.settings import Settings
from fedsim.models import build_model
from fedsim.models.layer_map import SITES, as_written, norm_sites, replaced_layers

SmallSettings = Callable[..., Settings]
SHAPE = (3, 32, 32)


def written(name: str, shape: tuple[int, int, int] = SHAPE) -> nn.Module:
    return as_written(compose([f"model={name}"])["model"], 10, shape)


def test_a_network_as_written_takes_no_memory_and_draws_nothing() -> None:
    before = torch.get_rng_state()
    network = written("resnet18")
    assert all(parameter.is_meta for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("norm", ["bn", "gn", "none", "sws", "bcn", "ws_gn", "sws norm.residual=nf", "ibn_b"])
def test_every_norm_has_the_same_sites(small_settings: SmallSettings, norm: str) -> None:
    model = build_model(small_settings("model=resnet18", *f"norm={norm}".split()), 10, SHAPE).eval()
    sites = norm_sites(written("resnet18"), model)
    assert len(sites) == 20
    assert list(sites)[:3] == ["bn1", "layer1.0.bn1", "layer1.0.bn2"]
    called = set()
    for name, layer in sites.items():
        layer.register_forward_hook(lambda *_, name=name: called.add(name))
    with torch.no_grad():
        model(torch.randn(2, *SHAPE))
    assert called == set(sites)


def test_what_was_replaced_is_told_by_name(small_settings: SmallSettings) -> None:
    plain = written("cnn_small", (3, 28, 28))
    assert replaced_layers(plain, build_model(small_settings("norm=bn"), 10, (3, 28, 28))) == []
    rows = replaced_layers(plain, build_model(small_settings("norm=gn", "norm.groups=8"), 10, (3, 28, 28)))
    assert [name for name, _, _ in rows] == ["features.1", "features.5", "features.9"]
    assert rows[0][1].startswith("BatchNorm2d(32")
    assert rows[0][2] == repr(nn.GroupNorm(8, 32))
    standardized = replaced_layers(plain, build_model(small_settings("norm=sws"), 10, (3, 28, 28)))
    assert [name for name, _, now in standardized if now.startswith("ScaledWSConv2d")] == [
        *("features.0", "features.4", "features.8")
    ]
    assert [now for name, _, now in standardized if name == "features.1"] == ["Identity()"]


@pytest.mark.parametrize("norm", ["bn", "ln", "rms", "crms", "none", "powernorm norm.groups=1"])
def test_the_sites_of_a_transformer_are_its_layer_norms(small_settings: SmallSettings, norm: str) -> None:
    words = ("model=vit_tiny", "model.width=12", "model.depth=1")
    plain = as_written(compose(words)["model"], 10, SHAPE)
    assert all(parameter.is_meta for parameter in plain.parameters())
    model = build_model(small_settings(*words, *f"norm={norm}".split()), 10, SHAPE)
    sites = norm_sites(plain, model)
    assert sites == {name: model.get_submodule(name) for name in ("blocks.0.norm1", "blocks.0.norm2", "norm")}
    rows = replaced_layers(plain, model)
    assert {name for name, _, _ in rows} == (set() if norm == "ln" else set(sites))


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_b0", "convnext_tiny"])
def test_modules_that_the_network_itself_calls_block_keep_their_names(name: str) -> None:
    plain, model = (written(f"torchvision/{name}") for _ in range(2))
    assert any(".block." in each for each, _ in plain.named_modules())
    assert replaced_layers(plain, model) == []
    sites = norm_sites(plain, model)
    own = [each for each, layer in plain.named_modules() if isinstance(layer, SITES)]
    assert sites == {each: model.get_submodule(each) for each in own}
    assert len(sites) > 20


def test_the_layers_of_wrapped_blocks_are_told_by_their_names_as_written(small_settings: SmallSettings) -> None:
    model = build_model(small_settings("model=resnet18", "norm=ibn_b"), 10, SHAPE)
    rows = replaced_layers(written("resnet18"), model)
    assert [name for name, _, _ in rows] == ["bn1"]
