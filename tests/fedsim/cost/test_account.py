"""Operations and bytes against counts by hand, torch's counter, the tensors of a real step, and published ratios."""

import math
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fedsim.core.errors import UserError
from fedsim.cost import ModelCost, model_cost, pair_bytes, partial_bytes
from fedsim.messages.arrays import count_bytes, to_record
from fedsim.models import CNNSmall, ResNet20, mobilenet_v2, resnet18, vgg11
from fedsim.models.freeze import train_only
from fedsim.norms import use_scaled_ws
from tests.conftest import ROOT

SHAPE = (3, 32, 32)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "cnn_small": lambda: CNNSmall(image_shape=SHAPE),
    "resnet18": resnet18,
    "resnet20": ResNet20,
    "vgg11": vgg11,
    "mobilenet_v2": mobilenet_v2,  # convolutions with groups
    "standardized": lambda: use_scaled_ws(ResNet20()),
}


def counted(model: nn.Module, images: torch.Tensor, backward: bool = False) -> int:
    with FlopCounterMode(display=False) as counter:
        out = model.eval()(images)
        if backward:
            out.sum().backward()
    total: int = counter.get_total_flops()
    return total


# By hand


def test_a_convolution_counted_by_hand() -> None:
    convolution = nn.Conv2d(4, 6, kernel_size=(3, 5), stride=2, padding=1, groups=2)
    cost = model_cost(nn.Sequential(convolution), (4, 9, 11))
    height, width = (9 + 2 * 1 - 3) // 2 + 1, (11 + 2 * 1 - 5) // 2 + 1
    layer = cost.layers["0"]
    assert layer.weights == 6 * (4 // 2) * 3 * 5 == 180
    assert layer.others == layer.others_trained == 6
    assert layer.positions == height * width == 25
    assert layer.outputs == 6 * height * width
    # Each of the 6 * 25 outputs is a sum of 2 * 3 * 5 products.
    dense = 2 * (6 * 25) * (2 * 3 * 5)
    assert cost.forward_flops() == dense == 9000
    assert cost.forward_flops(images=7) == 7 * dense
    assert cost.training_flops(images=7) == 3 * 7 * dense
    sparse = 2 * 45 * 25  # a quarter of the 180 weights, at each of 25 positions
    quarter = {"0": 0.25}
    assert cost.forward_flops(shares=quarter) == sparse
    assert cost.training_flops(7, quarter) == 7 * 3 * sparse
    assert cost.training_flops(7, quarter, full_gradient_images=7) == 7 * (2 * sparse + dense)
    assert cost.training_flops(7, quarter, full_gradient_images=2) == 5 * 3 * sparse + 2 * (2 * sparse + dense)
    memory = cost.device_memory(batch_size=7, shares=quarter, optimizer_states=1, top_k=10)
    assert memory.weights == 4 * 6 + 4 * 45 + math.ceil(180 / 8)
    assert memory.gradients == memory.optimizer == 4 * (45 + 6)
    assert memory.activations == 7 * 4 * (4 * 9 * 11)  # what the convolution was given
    assert memory.buffers == 0
    assert memory.top_k == 10 * (4 + 4)
    assert memory.total == (24 + 180 + 23) + 2 * 204 + 7 * 1584 + 80
    assert cost.device_memory(7, quarter, full_gradients=["0"]).gradients == 4 * (180 + 6)


def test_a_linear_layer_counted_by_hand() -> None:
    cost = model_cost(nn.Sequential(nn.Flatten(), nn.Linear(24, 5)), (2, 3, 4))
    layer = cost.layers["1"]
    assert (layer.weights, layer.others, layer.positions, layer.outputs) == (24 * 5, 5, 1, 5)
    assert cost.forward_flops(3) == 3 * 2 * 24 * 5
    assert cost.training_flops(3, {"1": 0.1}) == 3 * 3 * 2 * 12
    assert cost.training_flops(3, {"1": 0.1}, full_gradient_images=3) == 3 * (2 * 2 * 12 + 2 * 120)
    memory = cost.device_memory(3, {"1": 0.02}, optimizer_states=2)
    assert memory.weights == 4 * 5 + 2 * 4 + min(2 * 4, 120 // 8)  # two weights are kept, and two indices
    assert memory.gradients == 4 * (2 + 5)
    assert memory.optimizer == 2 * 4 * (2 + 5)
    assert memory.activations == 3 * 4 * 24
    # The same weights for each of the 2 * 3 rows.
    assert model_cost(nn.Sequential(nn.Linear(4, 5)), (2, 3, 4)).forward_flops() == (2 * 3) * 2 * 4 * 5


def test_layers_have_shares_of_their_own() -> None:
    cost = model_cost(CNNSmall(), (3, 28, 28))
    shares = {"features.4": 0.5, "head": 0.1}
    expected = (3 * 9 * 32) * 28**2 + (32 * 9 * 64 // 2) * 14**2 + (64 * 9 * 64) * 7**2 + 64 * 3**2
    assert cost.forward_flops(shares=shares) == 2 * expected
    # The gradients of all weights of one layer only.
    extra = 2 * (32 * 9 * 64 // 2) * 14**2
    sparse = cost.training_flops(10, shares)
    of_four = {"full_gradient_images": 4, "full_gradient_layers": ["features.4"]}
    assert cost.training_flops(10, shares, **of_four) == sparse + 4 * extra  # type: ignore[arg-type]
    assert cost.training_flops(10, shares, full_gradient_images=4, full_gradient_layers=["features.0"]) == sparse
    assert cost.full_gradient_flops(4, shares, ["features.4"]) == 4 * extra
    assert cost.forward_flops(20, {"head": 0.1}) == 20 * (2 * expected + extra)


def test_a_norm_layer_has_parameters_and_no_weights_to_prune() -> None:
    cost = model_cost(CNNSmall(), (3, 28, 28))
    norm = cost.layers["features.1"]
    assert (norm.weights, norm.others, norm.positions, norm.outputs) == (0, 2 * 32, 0, 32 * 28**2)
    assert cost.buffers == 4 * 2 * (32 + 64 + 64) + 3 * 8  # statistics, and three counters of batches
    pools = 28**2 * 32 + 14**2 * 64 + 7**2 * 64  # what is pooled
    pooled = 14**2 * 32 + 7**2 * 64 + 3**2 * 64
    # Autograd keeps the images, what each norm, each pooling and each layer after one was given, and where the maxima
    # were, as int64; what each ReLU puts out is what the pooling was given.
    assert cost.activations == 4 * (3 * 28**2 + 2 * pools + pooled) + 8 * pooled
    assert cost.intermediates == 0


# Against torch's counter


@pytest.mark.parametrize("name", NETWORKS)
def test_a_dense_model_costs_what_torch_counts(name: str) -> None:
    model = NETWORKS[name]()
    cost = model_cost(model, SHAPE)
    assert cost.elsewhere == 0
    assert cost.forward_flops(2) == counted(model, torch.zeros(2, *SHAPE))
    # For the gradient of a convolution's weights torch leaves its groups out of account, so that it counts too much.
    groups = {name: layer.groups for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
    too_much = 2 * sum((groups.get(name, 1) - 1) * layer.flops(layer.weights) for name, layer in cost.layers.items())
    both_ways = counted(model, torch.zeros(2, *SHAPE, requires_grad=True), backward=True)
    assert both_ways - cost.training_flops(2) in (0, too_much)
    assert (too_much > 0) == (name == "mobilenet_v2")
    # Without the gradient of the images, which is the first layer's.
    first = cost.layers[next(iter(cost.layers))]
    without = counted(model, torch.zeros(2, *SHAPE), backward=True)
    assert both_ways - without == 2 * first.flops(first.weights)


def test_frozen_weights_have_no_gradients() -> None:
    model = train_only(ResNet20(), "norm")
    cost = model_cost(model, SHAPE)
    assert cost.training_flops(2) == counted(model, torch.zeros(2, *SHAPE, requires_grad=True), backward=True)
    assert cost.training_flops(2) == cost.training_flops(2, full_gradient_images=2) == 2 * cost.forward_flops(2)
    halves = dict.fromkeys([name for name, layer in cost.layers.items() if layer.weights], 0.5)
    assert cost.training_flops(2, halves, full_gradient_images=2) == 2 * cost.forward_flops(2, halves)
    memory = cost.device_memory(1, optimizer_states=1)
    assert memory.gradients == memory.optimizer == 4 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert memory.weights == 4 * sum(p.numel() for p in model.parameters())


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows = images.flatten(1, 2)
        mixed: torch.Tensor = self.attention(rows, rows, rows, need_weights=False)[0]
        logits: torch.Tensor = self.head(mixed.mean(1))
        return logits


def test_products_outside_of_layers_are_counted_too() -> None:
    model = Attention()
    cost = model_cost(model, (2, 3, 8))
    assert cost.elsewhere > 0
    tokens = 2 * 3
    attention = 2 * 2 * tokens * tokens * 8  # queries by keys, and weights by values, of both heads together
    # Torch's counter leaves out attention as the CPU computes it, but not the same in single products.
    assert cost.forward_flops(4) == counted(model, torch.zeros(4, 2, 3, 8)) + 4 * attention
    with sdpa_kernel(SDPBackend.MATH):
        assert cost.forward_flops(4) == counted(model, torch.zeros(4, 2, 3, 8))
    assert cost.forward_flops(shares={"head": 0.0}) == cost.elsewhere
    assert cost.training_flops(4) == 3 * cost.forward_flops(4)
    assert cost.weight_bytes() == 4 * sum(parameter.numel() for parameter in model.parameters())


# Published ratios


@pytest.fixture(name="resnet", scope="module")
def resnet_fixture() -> ModelCost:
    return model_cost(resnet18(), SHAPE)


def test_the_published_operations_of_fedtiny(resnet: ModelCost) -> None:
    """0.014 and 0.34 of dense training, 95.91 % less (arXiv 2212.01977): ten clients of 5,000 images, five epochs in
    batches of 64, dense gradients of one batch per round; 1 % of the weights but for the first convolution."""
    weighty = [name for name, layer in resnet.layers.items() if layer.weights]
    assert sum(resnet.layers[name].weights for name in weighty) == 11_164_352
    assert resnet.forward_flops() == 2 * 555_422_720
    shares = dict.fromkeys(weighty[1:], 0.01)
    images = 5 * math.ceil(5000 / 64) * 64
    dense = resnet.training_flops(images)
    fedtiny = resnet.training_flops(images, shares, full_gradient_images=64) / dense
    prunefl = resnet.training_flops(images, shares, full_gradient_images=images) / dense
    assert round(fedtiny, 4) == 0.0140
    assert round(prunefl, 4) == 0.3421
    assert round(100 * (1 - fedtiny / prunefl), 2) == 95.91
    # Nothing else that was plausible comes out: the first convolution pruned as well, or gradients of the last block.
    pruned = dict.fromkeys(weighty, 0.01)
    ratio = resnet.training_flops(images, pruned, 64) / resnet.training_flops(images, pruned, images)
    assert round(100 * (1 - ratio), 1) == 96.8
    block = [name for name in weighty if name.startswith(("layer4", "fc"))]
    ratio = resnet.training_flops(images, shares, 64, block) / resnet.training_flops(images, shares, images)
    assert round(100 * (1 - ratio), 1) == 96.1


def test_the_published_memory_of_fedtiny(resnet: ModelCost) -> None:
    """0.03 and 0.51 of dense training, 94.01 % less, come out without activations, with 1 % of all weights and eight
    bytes of index each, gradients that have indices too, and dense training without norm layers."""
    weights = [layer.weights for layer in resnet.layers.values() if layer.weights]
    others = sum(layer.others for layer in resnet.layers.values())
    sparse = 4 * others + sum(partial_bytes(n, round(0.01 * n), index_bytes=8) for n in weights)
    fedtiny = sparse / (4 * sum(weights))
    prunefl = (1 + fedtiny) / 2
    assert (round(fedtiny, 4), round(prunefl, 4)) == (0.0309, 0.5154)
    assert round(100 * (1 - fedtiny / prunefl), 2) == 94.01


# Against tensors


@pytest.mark.parametrize("name", NETWORKS)
def test_memory_is_that_of_the_tensors_of_a_training_step(name: str) -> None:
    model, images = NETWORKS[name](), torch.rand(5, *SHAPE)
    memory = model_cost(model, SHAPE).device_memory(batch_size=5, optimizer_states=1)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # an evaluating model has no masks
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    kept: dict[int, torch.Tensor] = {}
    with saved_tensors_hooks(lambda tensor: kept.setdefault(tensor.untyped_storage().data_ptr(), tensor), lambda x: x):
        logits = model(images)
    F.cross_entropy(logits, torch.zeros(5, dtype=torch.long)).backward()
    optimizer.step()
    parameters = list(model.parameters())
    assert memory.weights == sum(parameter.nbytes for parameter in parameters)
    assert memory.gradients == sum(parameter.grad.nbytes for parameter in parameters if parameter.grad is not None)
    assert memory.optimizer == sum(optimizer.state[parameter]["momentum_buffer"].nbytes for parameter in parameters)
    assert memory.buffers == sum(buffer.nbytes for buffer in model.buffers())
    held = {tensor.untyped_storage().data_ptr() for tensor in (*parameters, *model.buffers())}
    measured = sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in held)
    channels = sum(module.num_features for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    assert measured == memory.activations + 2 * 4 * channels  # mean and deviation of the batch


@pytest.mark.parametrize("density", [0.0, 0.001, 0.01, 1 / 32, 0.1, 0.5, 1.0])
def test_sparse_weights_travel_in_so_many_bytes(density: float) -> None:
    weights = np.arange(1, 1004, dtype=np.float32)
    mask = np.random.default_rng(0).permutation(len(weights)) < round(density * len(weights))
    values = weights[mask]
    bitmap, indices = np.packbits(mask), np.flatnonzero(mask).astype(np.int32)
    message = min(
        (
            to_record({"values": torch.from_numpy(values), "where": torch.from_numpy(where)})
            for where in (bitmap, indices)
        ),
        key=count_bytes,
    )
    assert partial_bytes(len(weights), int(mask.sum())) == count_bytes(message)
    assert pair_bytes(len(values)) == values.nbytes + indices.nbytes


def test_a_pruned_state_travels_in_so_many_bytes() -> None:
    model = CNNSmall(image_shape=SHAPE)
    cost = model_cost(model, SHAPE)
    shares = {"features.4": 0.01, "features.8": 0.2, "head": 0.99}
    assert cost.weight_bytes() + cost.buffers == count_bytes(to_record(model.state_dict()))
    message = {name: tensor for name, tensor in model.state_dict().items() if "weight" not in name}
    for path, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            weight = layer.weight.detach().flatten()
            chosen = weight.abs().argsort(descending=True)[: round(shares.get(path, 1) * len(weight))]
            mask = torch.zeros(len(weight), dtype=torch.bool)
            mask[chosen] = True
            if path == "features.4":
                message |= {f"{path}.values": weight[mask], f"{path}.indices": mask.nonzero().to(torch.int32)}
            elif path == "features.8":
                bitmap = torch.from_numpy(np.packbits(mask.numpy()))
                message |= {f"{path}.values": weight[mask], f"{path}.bitmap": bitmap}
            else:  # one that keeps nearly everything is shorter with its zeros than with a mask
                message[path] = weight * mask
    assert cost.weight_bytes(shares) + cost.buffers == count_bytes(to_record(message))


# What is left, what is refused, and what it takes


def test_torchs_compiler_is_not_imported_to_count() -> None:
    program = """
import sys
from fedsim.cost import model_cost
from fedsim.models import CNNSmall
assert model_cost(CNNSmall(), (3, 28, 28)).forward_flops() > 0
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_model_is_left_as_it_was() -> None:
    model = CNNSmall()
    model.features[1].eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.get_rng_state()
    with torch.no_grad():
        first = model_cost(model, (3, 28, 28))
    with pytest.raises(RuntimeError):
        model_cost(model, (4, 28, 28))
    assert model_cost(model, (3, 28, 28)) == first
    assert [module.training for module in model.modules()] == [
        module is not model.features[1] for module in model.modules()
    ]
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_norm_layer_that_needs_several_images_is_counted() -> None:
    """BatchNorm of vectors by the batch refuses a single one."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5, track_running_stats=False))
    assert model_cost(model, (3, 2, 2)).forward_flops() == 2 * 12 * 5


def test_a_parameter_of_two_modules_is_held_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False))
    model[2].weight = model[0].weight
    cost = model_cost(model, (1, 2, 4))
    assert cost.weight_bytes() == 4 * 4 * 4
    assert cost.forward_flops() == 2 * (2 * 2 * 4 * 4)  # both times it is used


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda cost: cost.forward_flops(1, {"1": 1.5}),
            r"a share of 1\.5 for 1 is not possible: choose .* 0 to 1\.",
        ),
        (lambda cost: cost.weight_bytes({"1": math.nan}), r"a share of nan for 1 is not possible: .*"),
        (lambda cost: cost.forward_flops(1, {"0": 0.5}), r"0 is no layer with weights of this network: choose 1\."),
        (lambda cost: cost.training_flops(1, None, 1, ["2"]), r"2 is no layer with weights .*: choose 1\."),
        (lambda cost: cost.device_memory(1, full_gradients=["2"]), r"2 is no layer with weights .*: choose 1\."),
        (
            lambda cost: cost.training_flops(1, None, 2),
            r"2 of 1 images cannot have gradients of all weights: choose at most 1\.",
        ),
        (lambda cost: partial_bytes(3, 4), r"4 of 3 numbers cannot be kept: choose a whole number from 0 to 3\."),
    ],
)
def test_what_makes_no_sense_is_refused(call: Callable[[ModelCost], object], sentence: str) -> None:
    cost = model_cost(nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1)), (2, 4, 4))
    with pytest.raises(UserError, match=f"^{sentence}$"):
        call(cost)
