"""The FLOPs that methods account for, against those that torch counts while their clients train."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Context, RecordDict
from torch.utils.flop_counter import FlopCounterMode

from fedsim.client.app_factory import ClientAppFactory
from fedsim.client.host import ClientHost
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record
from fedsim.output.progress import Reporter
from fedsim.server.preparation import Prepared, prepare
from fedsim.server.simulation import run
from tests.methods import some_by_day

MakeSettings = Callable[..., Settings]
CLIENT, IMAGES = 2, 40
METHODS = {
    "fedavg": (),
    "fedbn": (),
    "fedetf": (),
    "fedloge": ("head.steps=1",),
    "fedper": (),
    "fedproto": (),
    "fedprox": (),
    "fedrep": ("strategy.head_epochs=3",),
    "fedrod": (),
    "fedwon": (),
    "local": (),
    # Kernels are dense here, so that only a dense network takes what is counted.
    "pruned": ("strategy.density=1",),
    "prunefl": ("strategy.density=1", "strategy.interval=1"),
    "feddst": ("strategy.density=1",),
    "fedtiny": ("strategy.density=1", "strategy.candidates=1", "norm=gn", "norm.groups=4"),
}


@pytest.mark.parametrize("method", some_by_day(METHODS))
def test_a_client_takes_the_flops_that_are_counted(small_settings: MakeSettings, method: str) -> None:
    words = (f"strategy={method}", *METHODS[method], "local_epochs=2", "batch_size=16")
    prepared = prepare(small_settings(*words))
    settings, federation, strategy = prepared.settings, prepared.federation, prepared.strategy
    grid = InlineGrid(ClientAppFactory(settings, federation), 6, [torch.device("cpu")])
    arrays = to_record(dict(prepared.model.state_dict()))
    (message,) = [
        message
        for message in strategy.configure_train(1, arrays, ConfigRecord(), grid)
        if message.metadata.dst_node_id == CLIENT
    ]
    host = ClientHost(settings, federation, torch.device("cpu"))
    context = Context(0, CLIENT, {"partition-id": CLIENT}, RecordDict(), {})
    with FlopCounterMode(display=False) as counter:
        host.train(message, context)
    assert len(federation.partitions[CLIENT].train) == IMAGES
    unneeded = first_gradient(prepared) * 2 * IMAGES
    told = prepared.costs.needs(strategy.workload(CLIENT), CLIENT)["device_gflops"]
    assert round(told * 1e9) == counter.get_total_flops() + unneeded
    assert strategy.planned()[0].passes == strategy.workload(CLIENT).passes


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("drop", ["false", "true"])
def test_moon_lets_every_batch_of_every_pass_through_two_more_models(
    small_settings: MakeSettings, epochs: int, drop: str
) -> None:
    words = ("strategy=moon", f"local_epochs={epochs}", "batch_size=16", f"drop_last={drop}")
    prepared = prepare(small_settings(*words))
    grid = InlineGrid(ClientAppFactory(prepared.settings, prepared.federation), 6, [torch.device("cpu")])
    message = next(
        iter(prepared.strategy.configure_train(1, to_record(dict(prepared.model.state_dict())), ConfigRecord(), grid))
    )
    host = ClientHost(prepared.settings, prepared.federation, torch.device("cpu"))
    context = Context(0, CLIENT, {"partition-id": CLIENT}, RecordDict(), {})
    message.metadata.dst_node_id = CLIENT
    host.train(message, context)  # after which there is a previous model
    with FlopCounterMode(display=False) as counter:
        host.train(message, context)
    used = epochs * (32 if drop == "true" else IMAGES)
    told = prepared.costs.needs(prepared.strategy.workload(CLIENT), CLIENT)["device_gflops"]
    assert round(told * 1e9) == counter.get_total_flops() + first_gradient(prepared) * used


@pytest.mark.parametrize("further", ["null", "0", "5"])
def test_the_further_passes_of_fedtan_are_counted(small_settings: MakeSettings, further: str) -> None:
    words = ("strategy=fedtan", f"strategy.further_epochs={further}", "local_epochs=2", "batch_size=16")
    prepared = prepare(small_settings(*words))
    grid = InlineGrid(ClientAppFactory(prepared.settings, prepared.federation), 6, [torch.device("cpu")])
    arrays = to_record(dict(prepared.model.state_dict()))
    messages = list(prepared.strategy.configure_train(1, arrays, ConfigRecord(), grid))
    (message,) = [each for each in messages if each.metadata.dst_node_id == CLIENT]
    host = ClientHost(prepared.settings, prepared.federation, torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        host.train(message, grid.contexts[CLIENT])
    used = 16 + IMAGES * {"null": 2, "0": 0, "5": 5}[further]
    told = prepared.costs.needs(prepared.strategy.workload(CLIENT), CLIENT)["device_gflops"]
    assert round(told * 1e9) == counter.get_total_flops() + first_gradient(prepared) * used


def test_steps_are_of_the_batches_of_a_pass(small_settings: MakeSettings) -> None:
    """40 images are batches of 16, 16 and 8, so that five batches have 72."""
    words = ("strategy=fraug", "batch_size=16", "local_epochs=1")
    a_pass, five = (prepare(small_settings(*words, f"strategy.local_steps={n}")) for n in ("null", "5"))
    gflops = [each.costs.needs(each.strategy.workload(CLIENT), CLIENT)["device_gflops"] for each in (a_pass, five)]
    assert gflops[1] / gflops[0] == pytest.approx(72 / 40)


def first_gradient(prepared: Prepared) -> int:
    """Return the FLOPs of the gradient by an image, which torch does not compute and the rule counts."""
    first = next(layer for layer in prepared.costs.cost.layers.values() if layer.weights)
    return first.flops(first.weights)


def test_a_budget_knows_what_a_method_takes_more(small_settings: MakeSettings) -> None:
    """A device that can afford plain training cannot afford twenty passes for the head beside it."""
    plain = prepare(small_settings("strategy=fedper"))
    needed = plain.costs.most(plain.strategy.planned(), range(6))
    limits = (f"budget.flops={needed['device_gflops'] * 1e9}", f"budget.memory_mb={needed['device_memory_mb']}")
    prepare(small_settings("strategy=fedper", *limits))
    with pytest.raises(UserError, match=r"^budget\.flops=.* is not possible: a device needs"):
        prepare(small_settings("strategy=fedrep", "strategy.head_epochs=20", *limits))
    with pytest.raises(UserError, match=r"^budget\.memory_mb=.* is not possible: a device needs"):
        prepare(small_settings("strategy=fedprox", *limits))


def test_twenty_passes_for_the_head_by_hand(small_settings: MakeSettings) -> None:
    """Of each image a forward pass of the network, and once more the head, for the gradient of its weights."""
    few, many = (prepare(small_settings("strategy=fedrep", f"strategy.head_epochs={n}")) for n in (1, 20))
    gflops = [each.costs.needs(each.strategy.workload(0), 0)["device_gflops"] for each in (few, many)]
    forward = 2 * (3 * 9 * 32 * 16**2 + 32 * 9 * 64 * 8**2 + 64 * 9 * 64 * 4**2 + 64 * 4 * 10)
    assert (gflops[1] - gflops[0]) * 1e9 == pytest.approx(19 * IMAGES * (forward + 2 * 64 * 4 * 10))
    memory = [each.costs.needs(each.strategy.workload(0), 0)["device_memory_mb"] for each in (few, many)]
    dense = prepare(small_settings())
    whole = dense.costs.needs(dense.strategy.workload(0), 0)["device_memory_mb"]
    head = 4 * (64 * 4 * 10 + 10)  # while the body is trained the head has no gradient
    assert memory == [pytest.approx(whole - head / 1e6)] * 2


def test_images_that_a_pass_leaves_out_cost_nothing(small_settings: MakeSettings) -> None:
    all_of_them, whole_batches = (
        prepare(small_settings("batch_size=16", f"drop_last={drop}", "local_epochs=3")) for drop in ("false", "true")
    )
    gflops = [each.costs.needs(each.strategy.workload(0), 0)["device_gflops"] for each in (all_of_them, whole_batches)]
    assert gflops[1] / gflops[0] == pytest.approx(32 / IMAGES)


def test_the_further_heads_of_fedloge_by_hand(small_settings: MakeSettings) -> None:
    """Beside the network, whose own head is fixed, two more: a forward pass and the gradient of the weights each."""
    prepared = prepare(small_settings("strategy=fedloge", "head.steps=1", "local_epochs=2"))
    head = 2 * 64 * 4 * 10
    forward = 2 * (3 * 9 * 32 * 16**2 + 32 * 9 * 64 * 8**2 + 64 * 9 * 64 * 4**2)
    gflops = prepared.costs.needs(prepared.strategy.workload(0), 0)["device_gflops"]
    assert gflops * 1e9 == pytest.approx(2 * IMAGES * (3 * forward + 2 * head + 2 * 2 * head))


def test_model_sized_numbers_beside_the_optimizers_by_hand(small_settings: MakeSettings) -> None:
    """FedProx keeps the model that it was sent; PruneFL sums of dense gradients, and of their squares, and a dense
    gradient; SNIP a dense gradient and its sum while it is asked."""
    dense = prepare(small_settings())
    numbers = sum(parameter.numel() for parameter in dense.model.parameters())
    whole = dense.costs.needs(dense.strategy.workload(0), 0)["device_memory_mb"]
    proximal = prepare(small_settings("strategy=fedprox"))
    memory = proximal.costs.needs(proximal.strategy.workload(0), 0)["device_memory_mb"]
    assert (memory - whole) * 1e6 == pytest.approx(4 * numbers)

    pruned = prepare(small_settings("strategy=pruned", "strategy.density=0.1"))
    sparse = pruned.costs.most(pruned.strategy.planned(), range(6))["device_memory_mb"]
    prune_fl = prepare(small_settings("strategy=prunefl", "strategy.density=0.1"))
    memory = prune_fl.costs.most(prune_fl.strategy.planned(), range(6))["device_memory_mb"]
    prunable = 32 * 9 * 64 + 64 * 9 * 64 + 64 * 4 * 10
    assert (memory - sparse) * 1e6 == pytest.approx(4 * (3 * prunable - round(0.1 * prunable)))

    words = ("strategy=pruned", "strategy.criterion=snip", "strategy.density=0.1", "batch_size=4")
    snip = prepare(small_settings(*words))  # whose question is a batch, too
    grid = InlineGrid(ClientAppFactory(snip.settings, snip.federation), 6, [torch.device("cpu")])
    needs = []
    for turn in (1, 2):
        list(snip.strategy.configure_train(turn, to_record(dict(snip.model.state_dict())), ConfigRecord(), grid))
        needs.append(snip.costs.needs(snip.strategy.workload(0), 0)["device_memory_mb"])
    weights = prunable + 3 * 9 * 32
    asked = dense.costs.cost.device_memory(4).activations + dense.costs.cost.buffers
    assert needs[0] * 1e6 == pytest.approx(asked + 4 * (2 * numbers + weights))
    assert needs[1] < needs[0]


def test_a_round_costs_what_its_own_masks_do(small_settings: MakeSettings, tmp_path: Path) -> None:
    """Not what those do that it leads to, which may keep more of the large layers."""
    words = ("strategy=prunefl", "strategy.density=0.1", "strategy.rate=1", "engine=inline", "rounds=1", "lr=0.2")
    adjusted, kept = (
        run(prepare(small_settings(*words, f"strategy.interval={interval}")), tmp_path / str(interval), Reporter())
        for interval in (1, 50)
    )
    gflops, as_it_began = (result.rounds["device_gflops"].iloc[-1] for result in (adjusted, kept))
    assert gflops == as_it_began
