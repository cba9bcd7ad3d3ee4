"""PruneFL-style pruning: the mean of squared gradients decides, over all layers, at one density."""

from collections.abc import Callable

import pytest
import torch
from flwr.app import ConfigRecord
from torch.nn import functional as F

from fedsim.arrays import to_record, to_tensors
from fedsim.client_host import ClientAppFactory
from fedsim.engines.inline import InlineGrid
from fedsim.errors import UserError
from fedsim.messages import MASKS, SQUARES, arrays_of
from fedsim.pruning.masks import kept, unpack
from fedsim.settings import Settings
from fedsim.simulation import Prepared, prepare
from strategies import PruneFL

MakeSettings = Callable[..., Settings]
SMALL = ("strategy=prunefl", "strategy.density=0.05", "strategy.interval=1", "strategy.stop_round=3", "engine=inline")


@pytest.fixture
def prepared(small_settings: MakeSettings) -> Prepared:
    return prepare(small_settings(*SMALL))


def test_the_largest_mean_squares_of_all_layers_are_kept(prepared: Prepared) -> None:
    strategy = prepared.strategy
    assert isinstance(strategy, PruneFL)
    grid = InlineGrid(ClientAppFactory(prepared.settings, prepared.federation), 6, [torch.device("cpu")])
    arrays = dict(prepared.model.state_dict())
    messages = list(strategy.configure_train(1, to_record(arrays), ConfigRecord(), grid))
    before = dict(strategy.masks)
    replies = list(grid.send_and_receive(messages))
    average, _ = strategy.aggregate_train(1, replies)
    assert average is not None

    sizes = [len(partition.train) for partition in prepared.federation.partitions]
    told = [to_tensors(reply.content.array_records[SQUARES]) for reply in replies]
    mean = {
        layer: sum(n / sum(sizes) * each[layer].double() for n, each in zip(sizes, told, strict=True))
        for layer in before
    }
    total = sum(kept(before).values())
    assert sum(kept(strategy.masks).values()) == total
    assert kept(strategy.masks) != kept(before)
    everything = torch.cat([squares.flatten() for squares in mean.values()])  # type: ignore[union-attr]
    threshold = everything.topk(total).values[-1]
    for layer, mask in strategy.masks.items():
        assert (mean[layer][mask] >= threshold * (1 - 1e-6)).all()  # type: ignore[index]
        weight = to_tensors(average)[f"{layer}.weight"]
        assert not weight[~mask].any()
        assert not weight[mask & ~before[layer]].any()  # what comes is zero at first


def test_squares_are_those_of_the_dense_gradients(small_settings: MakeSettings) -> None:
    prepared = prepare(small_settings(*SMALL, "strategy.density=0.5", "batch_size=64"))  # a round is one step
    grid = InlineGrid(ClientAppFactory(prepared.settings, prepared.federation), 6, [torch.device("cpu")])
    model = prepared.model
    messages = list(prepared.strategy.configure_train(1, to_record(dict(model.state_dict())), ConfigRecord(), grid))
    (reply,) = grid.send_and_receive(messages[:1])
    told = to_tensors(reply.content.array_records[SQUARES])
    data = prepared.federation.examples(prepared.federation.partitions[0].train)
    assert len(data) <= prepared.settings.batch_size
    model.load_state_dict(unpack(dict(prepared.strategy.masks), to_tensors(arrays_of(messages[0]))))
    images, labels = data.batch(torch.arange(len(data)))
    model.train()
    F.cross_entropy(model(images), labels).backward()
    for layer, squares in told.items():
        gradient = model.get_parameter(f"{layer}.weight").grad
        assert gradient is not None
        # Where neighbours are equally bright, rounding decides which of them max pooling hands its gradient to.
        assert (squares - gradient.square()).norm() < 0.01 * squares.norm()


def test_it_adjusts_until_the_stop_round_and_says_what_that_costs(prepared: Prepared) -> None:
    grid = InlineGrid(ClientAppFactory(prepared.settings, prepared.federation), 6, [torch.device("cpu")])
    arrays, sent, loads = dict(prepared.model.state_dict()), [], []
    for round in range(1, 5):
        messages = list(prepared.strategy.configure_train(round, to_record(arrays), ConfigRecord(), grid))
        replies = list(grid.send_and_receive(messages))
        average, _ = prepared.strategy.aggregate_train(round, replies)
        assert average is not None
        arrays = to_tensors(average)
        sent.append((MASKS in messages[0].content.array_records, SQUARES in replies[0].content.array_records))
        loads.append(prepared.strategy.workload(0))
    assert sent == [(True, True), (True, True), (True, False), (False, False)]
    assert [load.dense_steps for load in loads] == [None, None, 0, 0]
    assert [len(load.dense_layers) for load in loads] == [3, 3, 0, 0]


@pytest.mark.parametrize("option", ["interval", "stop_round"])
def test_wrong_rounds_are_refused(small_settings: MakeSettings, option: str) -> None:
    with pytest.raises(UserError, match=rf"^strategy\.{option}=0 is not possible: choose a whole number of at least 1"):
        prepare(small_settings("strategy=prunefl", f"strategy.{option}=0"))
