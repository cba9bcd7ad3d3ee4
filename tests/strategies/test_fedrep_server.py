"""FedRep: FedPer's split, and which networks it cannot train in two parts."""

from collections.abc import Callable

import pytest
import torch
from flwr.app import ConfigRecord
from torch import nn

from datasets.federation import Federation
from fedsim.client.app_factory import ClientAppFactory
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import arrays_of
from fedsim.methods.client_state import PERSONAL
from fedsim.methods.training import ServerTraining
from fedsim.models import CNN6, build_model
from strategies import FedPer, FedRep


def test_the_split_is_fedpers() -> None:
    assert FedRep(CNN6()).personal == FedPer(CNN6()).personal == {"head.weight", "head.bias"}
    assert FedRep(CNN6()).weighting == "examples"


@pytest.mark.parametrize("norm", ["norm=bn", "norm=powernorm", "norm.statistics=none"])
def test_a_round_moves_both_parts_and_sends_only_the_body(
    small_settings: Callable[..., Settings], federation: Federation, norm: str
) -> None:
    """Of the passes for the head nothing is seen in the statistics that travel."""
    overrides = ("strategy=fedrep", "strategy.head_epochs=2", norm, "engine=inline")
    settings = small_settings(*overrides)
    grid = InlineGrid(ClientAppFactory(settings, federation), 6, [torch.device("cpu")])
    model = build_model(settings, 10)
    initial = model.state_dict()
    if norm == "norm.statistics=none":
        initial = {name: tensor for name, tensor in initial.items() if "running" not in name and "num_" not in name}
    messages = list(
        FedRep(model, ServerTraining(fraction=0.5)).configure_train(1, to_record(initial), ConfigRecord(), grid)
    )
    replies = list(grid.send_and_receive(messages))
    for each in [*messages, *replies]:
        assert set(arrays_of(each)) == set(initial) - {"head.weight", "head.bias"}
    for reply in replies:
        kept = to_tensors(grid.client_states()[reply.metadata.src_node_id].array_records[PERSONAL])
        assert set(kept) == {"head.weight", "head.bias"}
        for name, tensor in {**kept, **to_tensors(arrays_of(reply))}.items():
            assert not torch.equal(tensor, initial[name]), name
            if name.endswith("num_batches_tracked"):
                assert tensor.item() == 2  # 40 images in batches of 32, once


def test_a_network_without_a_body_is_refused() -> None:
    with pytest.raises(UserError, match=r"^strategy=fedrep needs something to train in front of the classifier"):
        FedRep(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)))
