"""Files of pruned networks: what comes back, what it predicts, and how large they are."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from fedsim.core.errors import UserError
from fedsim.cost import partial_bytes
from fedsim.methods.sparse.candidates import erk
from fedsim.methods.sparse.criteria import random_masks
from fedsim.methods.sparse.export import as_dense, as_torch_sparse, load_masks, load_pruned, save_pruned
from fedsim.methods.sparse.masks import Masks, apply, prunable_layers
from fedsim.models import CNNSmall, resnet18

SHAPE = (3, 16, 16)
pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta"),
    pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants"),
]


def pruned(model: nn.Module, density: float) -> tuple[dict[str, torch.Tensor], Masks]:
    """A state with masks, and in it a kept zero and a kept negative zero."""
    shapes = {name: layer.weight.shape for name, layer in prunable_layers(model).items()}
    masks = random_masks(shapes, erk(shapes, density), torch.Generator().manual_seed(0))
    tensors = apply(masks, model.state_dict())
    name = next(iter(masks))
    places = masks[name].flatten().nonzero()[:2, 0]
    tensors[f"{name}.weight"].view(-1)[places] = torch.tensor([0.0, -0.0])
    return tensors, masks


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        value.dtype == other[name].dtype
        and value.shape == other[name].shape
        and value.numpy().tobytes() == other[name].numpy().tobytes()
        for name, value in one.items()
    )


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    model = CNNSmall(image_shape=SHAPE)
    model(torch.randn(4, *SHAPE))  # running statistics that are not those of the start
    return model.eval()


@pytest.mark.parametrize("density", [0.001, 0.02, 0.4, 1.0])
def test_a_file_gives_back_the_state_bit_for_bit_and_its_predictions(
    tmp_path: Path, model: nn.Module, density: float
) -> None:
    tensors, masks = pruned(model, density)
    save_pruned(tmp_path / "pruned.safetensors", tensors, masks)
    loaded = load_pruned(tmp_path / "pruned.safetensors")
    assert same_bits(loaded, tensors)
    assert all(torch.equal(mask, masks[name]) for name, mask in load_masks(tmp_path / "pruned.safetensors").items())
    other = CNNSmall(image_shape=SHAPE).eval()
    other.load_state_dict(loaded)
    model.load_state_dict(tensors)
    images = torch.randn(5, *SHAPE)
    assert torch.equal(other(images), model(images))
    assert [path.name for path in tmp_path.iterdir()] == ["pruned.safetensors"]


def test_masks_that_keep_nothing_or_are_of_no_layer_at_all_are_possible(tmp_path: Path, model: nn.Module) -> None:
    empty = {name: torch.zeros(layer.weight.shape, dtype=torch.bool) for name, layer in prunable_layers(model).items()}
    tensors = apply(empty, model.state_dict())
    save_pruned(tmp_path / "empty", tensors, empty)
    assert same_bits(load_pruned(tmp_path / "empty"), tensors)
    save_pruned(tmp_path / "dense", model.state_dict(), {})
    assert same_bits(load_pruned(tmp_path / "dense"), dict(model.state_dict()))


def test_the_file_of_resnet18_at_1_percent_is_as_small_as_its_account_says(tmp_path: Path) -> None:
    model = resnet18(num_classes=10, image_shape=(3, 32, 32))
    masks = {name: torch.rand(layer.weight.shape) < 0.01 for name, layer in prunable_layers(model).items()}
    tensors = apply(masks, model.state_dict())
    save_pruned(tmp_path / "pruned", tensors, masks)
    sparse = sum(partial_bytes(mask.numel(), int(mask.sum())) for mask in masks.values())
    others = sum(value.nbytes for name, value in tensors.items() if name.removesuffix(".weight") not in masks)
    size = (tmp_path / "pruned").stat().st_size
    header = int.from_bytes((tmp_path / "pruned").read_bytes()[:8], "little")  # the format's: its length comes first
    assert size == 8 + header + sparse + others
    assert size == pytest.approx(sparse + others, rel=0.03)
    assert size < 0.025 * sum(value.nbytes for value in tensors.values())


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"model.safetensors holds no pruned model"):
        load_pruned(tmp_path / "model.safetensors")


def test_the_shapes_are_readable_without_this_package(tmp_path: Path, model: nn.Module) -> None:
    tensors, masks = pruned(model, 0.02)
    save_pruned(tmp_path / "pruned", tensors, masks)
    content = (tmp_path / "pruned").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert json.loads(header["__metadata__"]["shapes"])["features.4"] == [64, 32, 3, 3]


@pytest.mark.parametrize("density", [0.02, 1.0])
def test_sparse_tensors_can_be_stored_and_give_back_the_state_bit_for_bit(
    tmp_path: Path, model: nn.Module, density: float
) -> None:
    tensors, masks = pruned(model, density)
    torch.save(as_torch_sparse(tensors, masks), tmp_path / "sparse.pt")
    sparse = torch.load(tmp_path / "sparse.pt", weights_only=True)
    for layer, mask in masks.items():
        weight = sparse[f"{layer}.weight"]
        assert weight.layout == torch.sparse_csr
        assert weight.shape == (len(mask), mask[0].numel())
        assert weight.values().numel() == mask.sum()
    assert same_bits(as_dense(sparse, like=model.state_dict()), tensors)


def test_sparse_tensors_multiply_to_the_same_logits(model: nn.Module) -> None:
    """The forward pass of the whole network written out with sparse products, convolutions by unfolding."""
    tensors, masks = pruned(model, 0.05)
    model.load_state_dict(tensors)
    state = as_torch_sparse(tensors, masks)
    images = torch.randn(3, *SHAPE)

    def product(layer: str, inputs: torch.Tensor) -> torch.Tensor:  # (N, rest, positions) to (N, out, positions)
        return torch.stack([state[f"{layer}.weight"] @ columns for columns in inputs])

    hidden = model.features[:4](images)  # the first convolution is dense
    for place, side in ((4, 8), (8, 4)):
        hidden = product(f"features.{place}", F.unfold(hidden, 3, padding=1)).view(3, 64, side, side)
        hidden += state[f"features.{place}.bias"][:, None, None]
        hidden = model.features[place + 1 : place + 4](hidden)
    logits = (state["head.weight"] @ hidden.flatten(1).T).T + state["head.bias"]
    torch.testing.assert_close(logits, model(images), rtol=1e-4, atol=1e-5)
