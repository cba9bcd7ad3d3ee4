"""The largest gradients of inactive weights against dense autograd."""

import inspect
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedsim.heads.cosine import CosineLinear
from fedsim.methods.sparse import gradients
from fedsim.methods.sparse.gradients import (
    BatchLoss,
    Found,
    _largest_of,
    dense_largest_gradients,
    largest_gradients,
    sliced_largest_gradients,
)
from fedsim.methods.sparse.masks import Masks, apply, entry, kept, prunable_layers
from fedsim.models import CNNSmall, ResNet20
from fedsim.norms import use_scaled_ws, use_ws
from fedsim.norms.scaled_ws import ScaledWSConv2d
from fedsim.reparam import use_weight_compander

Find = Callable[[nn.Module, BatchLoss, Masks, Mapping[str, int]], Found]
SMALL = (3, 16, 16)
# Of the network, which is as it is meant to be.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


def every_kind() -> nn.Module:
    """Stride, padding of all kinds, groups, depthwise, dilation, BatchNorm, a standardized and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 12, (3, 2), stride=(2, 1), padding=(1, 2), groups=2, bias=False),
        nn.ReLU(inplace=True),  # changes the output of a convolution in place
        nn.Conv2d(12, 24, 3, padding="same", groups=12),
        nn.GroupNorm(4, 24),
        nn.Conv2d(24, 6, (2, 3), padding="same", dilation=(1, 2)),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 8, 3, padding=(2, 1), dilation=2, padding_mode="reflect"),
        nn.Tanh(),
        ScaledWSConv2d(8, 10, 3, stride=2, groups=2),
        nn.ReLU(),
        nn.Conv2d(10, 7, 3, padding_mode="circular", padding=1),
        nn.Flatten(start_dim=2),
        nn.Linear(24, 9),  # for each of the 7 channels
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(63, 5),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "every_kind": every_kind,
    "cnn_small": lambda: CNNSmall(5, SMALL),
    "resnet20": lambda: ResNet20(5, SMALL),
    "standardized": lambda: use_ws(CNNSmall(5, SMALL)),
    "scaled": lambda: use_scaled_ws(CNNSmall(5, SMALL)),
    "companded": lambda: use_weight_compander(every_kind(), 2.0, 0.5),
    "cosine": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), CosineLinear(4 * 14 * 14, 5)),
}


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Of all convolutions and linear layers, by the name of the layer."""
    parameters = dict(model.named_parameters())
    return {name: parameters[entry(name)] for name in prunable_layers(model, dense=())}


def prune(model: nn.Module, share: float = 0.3) -> Masks:
    """Random masks, and in the model zeros where they are false."""
    draw = torch.Generator().manual_seed(1)
    masks = {name: torch.rand(weight.shape, generator=draw) < share for name, weight in weights_of(model).items()}
    model.load_state_dict(apply(masks, model.state_dict()))
    return masks


def on_images(model: nn.Module, images: int = 6, shape: tuple[int, int, int] = SMALL) -> BatchLoss:
    """The loss of one batch, always the same."""
    draw = torch.Generator().manual_seed(2)
    like = next(model.parameters())
    inputs = torch.randn(images, *shape, generator=draw, dtype=torch.float64).to(like)
    labels = (torch.arange(images) % 5).to(like.device)
    return lambda: F.cross_entropy(model(inputs), labels)


def dense_gradients(model: nn.Module, batch_loss: BatchLoss) -> dict[str, torch.Tensor]:
    weights = weights_of(model)
    return dict(zip(weights, torch.autograd.grad(batch_loss(), list(weights.values())), strict=True))


def largest(gradient: torch.Tensor, mask: torch.Tensor, count: int) -> list[int]:
    values, active = gradient.flatten().tolist(), mask.flatten().tolist()
    inactive = [place for place in range(len(values)) if not active[place]]
    return sorted(sorted(inactive, key=lambda place: (-abs(values[place]), place))[:count])


def check(found: Found, gradients: Mapping[str, torch.Tensor], masks: Masks, counts: Mapping[str, int]) -> None:
    assert list(found) == list(counts)
    for name, (places, values) in found.items():
        assert places.dtype == torch.int32
        assert values.dtype == torch.float32
        assert places.tolist() == largest(gradients[name], masks[name], counts[name]), name
        torch.testing.assert_close(values, gradients[name].flatten()[places.long()].float())


# What is found


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9], ids=lambda share: f"count_{share}")
@pytest.mark.parametrize("network", NETWORKS)
def test_as_many_and_the_same_as_of_the_dense_gradient(network: str, share: float, find: Find) -> None:
    torch.manual_seed(0)
    model = NETWORKS[network]().double().train()
    masks, batch_loss = prune(model), on_images(model)
    # From one number, less than a channel, to several channels.
    counts = {name: 1 + int(share * (~mask).sum()) for name, mask in masks.items()}
    gradients = dense_gradients(model, batch_loss)
    check(find(model, batch_loss, masks, counts), gradients, masks, counts)


@pytest.mark.parametrize("network", ["cnn_small", "resnet20", "scaled"])
def test_in_single_precision_up_to_rounding(network: str, find: Find) -> None:
    torch.manual_seed(0)
    model = NETWORKS[network]()
    masks, batch_loss = prune(model), on_images(model)
    counts = {name: count // 3 for name, count in kept(masks).items()}
    gradients = dense_gradients(model, batch_loss)
    for name, (places, values) in find(model, batch_loss, masks, counts).items():
        gradient, mask = gradients[name].flatten(), masks[name].flatten()
        assert len(places.unique()) == counts[name]
        assert not mask[places.long()].any()
        rounding = 1e-4 * gradient.abs().max().item()
        torch.testing.assert_close(values, gradient[places.long()], rtol=0, atol=rounding)
        others = gradient.masked_fill(mask, 0).index_fill(0, places.long(), 0)
        assert values.abs().min() >= others.abs().max() - rounding


WAYS = (dense_largest_gradients, sliced_largest_gradients)


@pytest.mark.parametrize("share", [0.0, 0.3], ids=lambda share: f"count_{share}")
@pytest.mark.parametrize("network", NETWORKS)
def test_both_ways_find_the_same(network: str, share: float) -> None:
    torch.manual_seed(0)
    model = NETWORKS[network]().double().train()
    masks, batch_loss = prune(model), on_images(model)
    counts = {name: 1 + int(share * (~mask).sum()) for name, mask in masks.items()}
    dense, sliced = (each(model, batch_loss, masks, counts) for each in WAYS)
    assert list(dense) == list(sliced)
    for name, (places, values) in dense.items():
        assert torch.equal(places, sliced[name][0]), name
        torch.testing.assert_close(values, sliced[name][1], rtol=1e-6, atol=0)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5], ids=lambda share: f"count_{share}")
def test_both_ways_are_equal_bit_for_bit_where_sums_are_exact(share: float) -> None:
    """Of small whole numbers, in whatever order a kernel adds them; many gradients are equal then."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, groups=4), nn.ReLU()),
        *(nn.Conv2d(8, 16, 2, groups=8, padding=1), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(64, 6)),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-1, 2, parameter.shape))
    images, signs = torch.randint(-1, 2, (4, 3, 16, 16)).float(), torch.tensor([1.0, -1, 1, -1, 2, 1])
    masks = prune(model)
    counts = {name: 1 + int(share * (~mask).sum()) for name, mask in masks.items()}
    dense, sliced = (each(model, lambda: (model(images) * signs).sum(), masks, counts) for each in WAYS)
    for name, (places, values) in dense.items():
        assert torch.equal(places, sliced[name][0]), name
        assert torch.equal(values, sliced[name][1]), name
        assert torch.equal(values, values.round())
    assert share == 0 or any(len(values.abs().unique()) < len(values) for _, values in dense.values())


@pytest.mark.parametrize("dense", [True, False])
def test_the_argument_chooses_the_way(dense: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = CNNSmall(5, SMALL)
    masks, batch_loss = prune(model), on_images(model)
    chosen: list[str] = []
    for name in ("dense_largest_gradients", "sliced_largest_gradients"):
        monkeypatch.setattr(gradients, name, lambda *_, name=name: chosen.append(name))
    largest_gradients(model, batch_loss, masks, {"head": 1}, dense=dense)
    assert chosen == ["dense_largest_gradients" if dense else "sliced_largest_gradients"]


def test_dense_is_what_is_not_asked_for() -> None:
    assert inspect.signature(largest_gradients).parameters["dense"].default is True


def test_the_largest_are_those_of_a_stable_order() -> None:
    """Beside a sort, with ties, infinities and numbers that are none."""
    draw = torch.Generator().manual_seed(0)
    for size in range(1, 200):
        sizes = torch.randint(0, 6, (size,), generator=draw).float()
        sizes[torch.rand(size, generator=draw) < 0.2] = torch.inf
        sizes[torch.rand(size, generator=draw) < 0.2] = torch.nan
        for count in {1, (size + 1) // 2, size}:
            order = sizes.argsort(descending=True, stable=True)[:count].sort().values
            assert torch.equal(_largest_of(sizes, count), order)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU that torch can use")
@pytest.mark.parametrize("network", NETWORKS)
def test_on_a_gpu(network: str, find: Find) -> None:
    torch.manual_seed(0)
    model = NETWORKS[network]().double()
    masks = prune(model)
    model.to("cuda")
    batch_loss, counts = on_images(model), kept(masks)
    gradients = dense_gradients(model, batch_loss)
    found = find(model, batch_loss, {name: mask.cuda() for name, mask in masks.items()}, counts)
    assert all(tensor.is_cuda for pair in found.values() for tensor in pair)
    on_cpu = {name: (places.cpu(), values.cpu()) for name, (places, values) in found.items()}
    check(on_cpu, {name: gradient.cpu() for name, gradient in gradients.items()}, masks, counts)


def test_one_layer_at_a_time_gives_the_same(find: Find) -> None:
    model = CNNSmall(5, SMALL).double()
    masks, batch_loss = prune(model), on_images(model)
    gradients = dense_gradients(model, batch_loss)
    for name in masks:
        counts = {name: 40}
        check(find(model, batch_loss, masks, counts), gradients, masks, counts)


def test_in_evaluation_mode_and_without_a_batch_dimension(find: Find) -> None:
    convolution = nn.Conv2d(2, 4, 3, padding=1)
    model = nn.Sequential(convolution, nn.BatchNorm2d(4), nn.Flatten(0), nn.Linear(100, 3)).double().eval()
    masks, image = prune(model), torch.randn(2, 5, 5, dtype=torch.float64)

    def batch_loss() -> torch.Tensor:
        loss: torch.Tensor = model[3](model[2](convolution(image).relu())).square().sum()
        return loss

    counts = {"0": 20, "3": 30}
    gradients = dense_gradients(model, batch_loss)
    check(find(model, batch_loss, masks, counts), gradients, masks, counts)


def test_of_equal_gradients_the_first(find: Find) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 2, bias=False), nn.Flatten(), nn.Linear(4, 6, bias=False))
    masks = {"0": torch.zeros(4, 3, 2, 2, dtype=torch.bool), "2": torch.zeros(6, 4, dtype=torch.bool)}
    masks["0"].view(-1)[[0, 3, 4, 20]] = True
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    images = torch.ones(2, 3, 2, 2)
    signs = torch.tensor([1.0, -1, 1, -1, 2, 1])  # of equal size but for the fifth row
    found = find(model, lambda: (model(images) * signs).sum(), masks, {"0": 20, "2": 9})
    expected = [place for place in range(48) if place not in (0, 3, 4, 20)][:20]
    assert found["0"][0].tolist() == expected
    assert found["2"][0].tolist() == [0, 1, 2, 3, 4, 16, 17, 18, 19]
    assert found["2"][1].tolist() == [12.0, 12, 12, 12, -12, 24, 24, 24, 24]


def test_all_inactive_weights_where_more_are_wanted(find: Find) -> None:
    model = CNNSmall(5, SMALL).double()
    masks, batch_loss = prune(model, share=0.9), on_images(model)
    masks["features.4"].fill_(True)
    gradients = dense_gradients(model, batch_loss)
    counts = {name: mask.numel() for name, mask in masks.items()}
    found = find(model, batch_loss, masks, counts)
    check(found, gradients, masks, counts)
    assert found["head"][0].tolist() == (~masks["head"]).flatten().nonzero()[:, 0].tolist()
    assert len(found["features.4"][0]) == 0


def test_nothing_wanted_runs_nothing(find: Find) -> None:
    model = CNNSmall(5, SMALL)
    masks = prune(model)

    def fail() -> torch.Tensor:
        raise AssertionError

    found = find(model, fail, masks, {"head": 0})
    assert [len(tensor) for tensor in found["head"]] == [0, 0]
    assert find(model, fail, masks, {}) == {}


def test_a_gradient_that_is_no_number_comes_first(find: Find) -> None:
    model = nn.Sequential(nn.Linear(3, 2, bias=False))
    rows = torch.tensor([[1.0, 5.0, float("nan")]])
    masks = {"0": torch.zeros(2, 3, dtype=torch.bool)}
    found = find(model, lambda: model(rows).sum(), masks, {"0": 3})
    assert found["0"][0].tolist() == [1, 2, 5]
