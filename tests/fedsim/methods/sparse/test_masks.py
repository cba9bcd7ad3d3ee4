"""Masks: their round trips, their bytes against NumPy and the cost account, and which weights they are about."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from fedsim.core.errors import UserError
from fedsim.cost import partial_bytes
from fedsim.methods.sparse.masks import (
    Masks,
    apply,
    decode,
    densities,
    density,
    encode,
    keep_largest,
    kept,
    pack,
    prunable_layers,
    unpack,
)
from fedsim.models import CNNSmall, resnet18


@st.composite
def networks(draw: st.DrawFn) -> tuple[dict[str, torch.Tensor], Masks]:
    """The state of some layers, with zeros and negative zeros in it, and masks of all densities, 0 and 1 included."""
    tensors, masks = {"norm.running_mean": torch.arange(3.0), "norm.num_batches_tracked": torch.tensor(7)}, {}
    shapes = st.one_of(
        st.tuples(st.integers(1, 9), st.integers(1, 40)),
        st.tuples(*(st.integers(1, 5) for _ in range(4))),
    )
    for layer in ("a", "b.c"):
        shape = draw(shapes)
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        share = draw(st.sampled_from([0.0, 0.01, 0.03, 0.5, 1.0]))
        tensors[f"{layer}.weight"] = torch.from_numpy(rng.choice([-1.5, -0.0, 0.0, 2.0, 1e-40], shape)).float()
        tensors[f"{layer}.bias"] = torch.ones(shape[0])
        masks[layer] = torch.from_numpy(rng.random(shape) < share)
    return tensors, masks


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.numpy().tobytes()


@settings(deadline=None)
@given(networks())
def test_what_is_packed_is_unpacked_bit_for_bit(network: tuple[dict[str, torch.Tensor], Masks]) -> None:
    tensors, masks = network
    packed = pack(masks, tensors)
    back = unpack(masks, packed)
    assert list(packed) == list(back) == list(tensors)
    for name, tensor in tensors.items():
        layer = name.removesuffix(".weight")
        whole, mask = tensor.numpy(), masks[layer].numpy() if layer in masks else np.ones(tensor.shape, dtype=bool)
        if layer in masks:
            assert packed[name].tolist() == whole[mask].tolist()
        assert back[name].dtype == tensor.dtype
        assert back[name].shape == tensor.shape
        assert bits(back[name]) == np.where(mask, whole, whole.dtype.type(0)).tobytes()
        assert bits(back[name]) == bits(apply(masks, tensors)[name])


@settings(deadline=None)
@given(networks())
def test_masks_are_decoded_as_they_were_and_take_the_bytes_that_are_charged(
    network: tuple[dict[str, torch.Tensor], Masks],
) -> None:
    tensors, masks = network
    encoded = encode(masks)
    decoded = decode(encoded, {layer: mask.shape for layer, mask in masks.items()})
    for layer, mask in masks.items():
        assert decoded[layer].dtype == torch.bool
        assert torch.equal(decoded[layer], mask)
        flat = mask.numpy().ravel()
        bitmap, places = np.packbits(flat), np.flatnonzero(flat).astype(np.int32)
        shorter = places if places.nbytes < bitmap.nbytes else bitmap
        assert encoded[layer].numpy().dtype == shorter.dtype
        assert encoded[layer].tolist() == shorter.tolist()
        values = pack(masks, tensors)[f"{layer}.weight"]
        assert values.nbytes + encoded[layer].nbytes == partial_bytes(flat.size, int(flat.sum()))


def test_numbers_that_are_not_as_many_as_the_mask_keeps_are_refused() -> None:
    masks = {"a": torch.tensor([[True, False, True]])}
    with pytest.raises(ValueError, match="mask keeps 2"):
        unpack(masks, {"a.weight": torch.ones(3)})


def test_the_largest_are_kept_and_of_equal_ones_the_first() -> None:
    scores = {"a": torch.tensor([[1.0, 3.0, 2.0], [3.0, 2.0, 2.0]]), "b": torch.zeros(5), "c": torch.ones(2)}
    masks = keep_largest(scores, {"a": 4, "b": 2, "c": 0})
    assert masks["a"].tolist() == [[False, True, True], [True, True, False]]
    assert masks["b"].tolist() == [True, True, False, False, False]
    assert not masks["c"].any()
    assert kept(masks) == {"a": 4, "b": 2, "c": 0}
    assert densities(masks) == {"a": 4 / 6, "b": 0.4, "c": 0.0}
    assert density(masks) == 6 / 13


def test_the_first_convolution_of_cnn_small_stays_dense_and_others_if_they_are_named() -> None:
    model = CNNSmall(num_classes=10, image_shape=(3, 32, 32))
    assert list(prunable_layers(model)) == ["features.4", "features.8", "head"]
    assert list(prunable_layers(model, dense=())) == ["features.0", "features.4", "features.8", "head"]
    assert list(prunable_layers(model, dense=("first", "last"))) == ["features.4", "features.8"]
    assert list(prunable_layers(model, dense=("features.8",))) == ["features.0", "features.4", "head"]
    assert all(isinstance(layer, nn.Conv2d | nn.Linear) for layer in prunable_layers(model).values())


def test_resnet18_has_as_many_prunable_weights_as_the_published_costs_need() -> None:
    layers = prunable_layers(resnet18(num_classes=10, image_shape=(3, 32, 32)))
    assert len(layers) == 20  # of 21: 17 3x3 convolutions, 3 shortcuts of 1x1, one linear layer
    assert sum(layer.weight.numel() for layer in layers.values()) == 11_164_352 - 1728
    assert sum("downsample" in name for name in layers) == 3


@pytest.mark.parametrize(
    ("dense", "words"),
    [
        (("features.1",), r"strategy.dense=features.1 is no layer of this network: choose first, last, or .*head"),
        (("first", "nowhere"), "strategy.dense=nowhere is no layer"),
        (("first", "features.4", "features.8", "last"), "leaves no layer to prune"),
    ],
)
def test_what_is_no_layer_or_leaves_none_is_refused(dense: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        prunable_layers(CNNSmall(), dense)
