"""FedBN: BatchNorm travels in neither direction, wherever it stands in the model."""

from collections.abc import Callable

import pytest
import torch
from flwr.app import ArrayRecord
from torch import nn
from torchvision.models import resnet18

from fedsim.core.errors import UserError
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_tensors
from fedsim.norms import remove_norm
from strategies import FedBN

MakeModel = Callable[..., nn.Module]
BN_OF_TOY = {f"1.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}


def test_batch_norm_is_found_by_type_also_in_residual_shortcuts() -> None:
    model = resnet18(weights=None)
    personal = FedBN(model).personal
    assert len(personal) == 100
    # 15 of them a test for "bn" in the name would miss.
    assert len([name for name in personal if "bn" not in name]) == 15
    by_layer = {
        f"{name}.{entry}"
        for name, layer in model.named_modules()
        if isinstance(layer, nn.BatchNorm2d)
        for entry in layer.state_dict()
    }
    assert personal == by_layer


def test_flowers_own_start_leaves_each_client_its_batch_norm(grid: InlineGrid, make_model: MakeModel) -> None:
    model = make_model()
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = FedBN(model).start(grid, ArrayRecord(model.state_dict()), num_rounds=2)

    assert not BN_OF_TOY & set(result.arrays)  # the server has no BatchNorm to change
    kept = [to_tensors(state["mine"]) for state in grid.client_states().values()]
    for name in BN_OF_TOY - {"1.num_batches_tracked"}:
        for client in range(3):
            assert not torch.equal(kept[client][name], initial[name]), f"client {client} did not train {name}"
            assert not torch.equal(kept[client][name], kept[client - 1][name]), f"{name} is the same on two clients"
    assert all(each["1.num_batches_tracked"].item() == 2 for each in kept)


def test_weights_are_uniform_by_default(make_model: MakeModel) -> None:
    assert FedBN(make_model()).weighting == "uniform"


def test_a_model_without_batch_norm_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(UserError, match=r"strategy=fedbn needs BatchNorm.*choose norm=bn and a model with BatchNorm"):
        FedBN(remove_norm(make_model()))
