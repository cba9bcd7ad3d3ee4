"""The aggregations in somebody else's Flower app, within Flower's own loop."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord
from torch import nn

from fedsim.aggregation import Krum, Median
from fedsim.aggregation.privacy import FixedClipping
from fedsim.core.errors import RoundFailed
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_tensors
from fedsim.methods.training import ServerTraining
from strategies import FedAvg, FedBN

MakeGrid = Callable[[], InlineGrid]
MakeModel = Callable[..., nn.Module]


def test_fedbn_by_the_median_in_flowers_own_loop(make_grid: MakeGrid, make_model: MakeModel) -> None:
    model = make_model()
    initial = ArrayRecord(model.state_dict())
    result = FedBN(model, ServerTraining(aggregation=Median())).start(make_grid(), initial, num_rounds=1)
    by_hand = make_grid()
    messages = list(FedBN(model).configure_train(1, initial, ConfigRecord(), by_hand))
    replies = [to_tensors(reply.content["arrays"]) for reply in by_hand.send_and_receive(messages)]
    final = result.arrays.to_torch_state_dict()
    assert final.keys() == replies[0].keys()
    for name, tensor in final.items():
        assert np.array_equal(tensor.numpy(), np.median([reply[name].numpy() for reply in replies], axis=0))


def test_clipping_in_flowers_own_loop(make_grid: MakeGrid, make_model: MakeModel) -> None:
    """Two rounds, each of which moves the three clients' mean by no more than the norm."""
    model = make_model(norm=True)
    initial = model.state_dict()
    clipping = FixedClipping(clipping_norm=0.01, noise_multiplier=0.0)
    result = FedAvg(model, ServerTraining(aggregation=clipping)).start(make_grid(), ArrayRecord(initial), num_rounds=2)
    final = result.arrays.to_torch_state_dict()
    floats = [name for name, tensor in initial.items() if tensor.is_floating_point()]
    moved = sum((final[name].double() - initial[name].double()).square().sum().item() for name in floats) ** 0.5
    assert 0 < moved <= 0.02 * (1 + 1e-4)
    counters = [tensor for name, tensor in final.items() if name not in floats]
    assert [counter.tolist() for counter in counters] == [2]
    assert result.train_metrics_clientapp[2]["clipped"] == 1.0


def test_too_few_clients_end_a_round_with_a_sentence(make_grid: MakeGrid, make_model: MakeModel) -> None:
    strategy = FedAvg(training=ServerTraining(aggregation=Krum(1)))
    grid = make_grid()
    messages = strategy.configure_train(1, ArrayRecord(make_model().state_dict()), ConfigRecord(), grid)
    with pytest.raises(RoundFailed, match=r"^in round 1 so few clients were left that aggregation\.malicious=1 needs"):
        strategy.aggregate_train(1, grid.send_and_receive(messages))
    assert torch.is_tensor(make_model().state_dict()["0.weight"])
