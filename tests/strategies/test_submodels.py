"""Devices of several densities: nested parts, each weight averaged over those who hold it, by hand."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from flwr.app import ConfigRecord, Error, Message
from safetensors.torch import load_file

from fedsim.client.app_factory import ClientAppFactory
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import CACHED, QUERY, arrays_of, config_of
from fedsim.methods.sparse.export import load_pruned
from fedsim.methods.sparse.masks import Masks, apply, decode, density, kept
from fedsim.methods.sparse.records import BN_STATISTICS, CANDIDATE_LOSS, MASKS
from fedsim.output.progress import Reporter
from fedsim.server.preparation import Prepared, prepare
from fedsim.server.simulation import run
from strategies import FedTiny, Pruned

MakeSettings = Callable[..., Settings]
SENT_MASKS = f"{CACHED}{MASKS}"
CLASSES = "budget.classes={phone:{clients:[0,1,2],flops:1.5e8},watch:{clients:[4],flops:1.2e8}}"
SMALL = ("strategy.density=null", "budget.flops=2e8", CLASSES, "engine=inline")
AND_DENSE_GRADIENTS = (
    "budget.flops=3.2e8",
    "budget.classes={phone:{clients:[0,1,2],flops:2.7e8},watch:{clients:[4],flops:2.3e8}}",
)
"""What the same devices afford where a method takes the gradients of all weights in each of its rounds."""
WATCH, PHONE, HUB = (4,), (0, 1, 2), (3, 5)


class Watched(InlineGrid):
    """Keeps the messages that it passes on."""

    def __init__(self, prepared: Prepared) -> None:
        super().__init__(ClientAppFactory(prepared.settings, prepared.federation), 6, [torch.device("cpu")])
        self.seen: list[Message] = []

    def send_and_receive(self, messages, *, timeout=None):  # type: ignore[no-untyped-def]
        messages = list(messages)
        self.seen += messages
        return super().send_and_receive(messages, timeout=timeout)


@pytest.fixture(params=["pruned", "fedtiny", "prunefl"])
def prepared(request: pytest.FixtureRequest, small_settings: MakeSettings) -> Prepared:
    every = {
        "pruned": (),
        "fedtiny": ("strategy.interval=1", "strategy.candidates=2"),
        "prunefl": ("strategy.interval=1", *AND_DENSE_GRADIENTS),
    }
    return prepare(small_settings(f"strategy={request.param}", *SMALL, *every[request.param]))


def strategy_of(prepared: Prepared) -> Pruned:
    assert isinstance(prepared.strategy, Pruned)
    return prepared.strategy


def asked(prepared: Prepared, grid: InlineGrid, round: int, arrays: dict[str, torch.Tensor]) -> dict[int, Message]:
    messages = prepared.strategy.configure_train(round, to_record(arrays), ConfigRecord(), grid)
    return {message.metadata.dst_node_id: message for message in messages}


def masks_in(message: Message, strategy: Pruned) -> Masks:
    """Of a message for training or evaluation, which brings them to keep, or of a query, which does not."""
    name = MASKS if QUERY in config_of(message) else SENT_MASKS
    return decode(to_tensors(message.content.array_records[name]), strategy.shapes)


def test_each_class_has_the_density_that_it_affords(prepared: Prepared) -> None:
    strategy, needs = strategy_of(prepared), prepared.costs.most
    assert prepared.sizes[""] == strategy.density > prepared.sizes["phone"] > prepared.sizes["watch"]
    budget = prepared.settings.budget
    classes = budget["classes"]
    for clients, limits, name in (
        (PHONE, classes["phone"], "phone"),
        (WATCH, classes["watch"], "watch"),
        (HUB, budget, ""),
    ):
        planned = needs(strategy.planned(prepared.sizes[name]), clients)
        assert limits["flops"] * 0.999 < planned["device_gflops"] * 1e9 <= limits["flops"]
    assert f"density {strategy.density:.3g} (phone: {prepared.sizes['phone']:.3g}, watch: " in str(prepared)


def test_smaller_devices_have_the_largest_weights_of_larger_ones(prepared: Prepared) -> None:
    grid, strategy = Watched(prepared), strategy_of(prepared)
    arrays = dict(prepared.model.state_dict())
    for round in (1, 2):  # after the first one, masks are others where the method adjusts them
        messages = asked(prepared, grid, round, arrays)
        assert sorted(messages) == [0, 1, 2, 3, 4, 5]
        made = round == 1 or prepared.settings.strategy["name"] != "pruned"
        if made:
            masks = {client: masks_in(message, strategy) for client, message in messages.items()}
        for name, clients in (("watch", WATCH), ("phone", PHONE), ("", HUB)):
            for client in clients:
                assert density(masks[client]) == pytest.approx(prepared.sizes[name], abs=1e-5)
        for small, large in ((4, 0), (0, 3)):
            for layer, mask in masks[small].items():
                assert (mask & masks[large][layer]).equal(mask)
                weight = arrays[f"{layer}.weight"].abs()
                assert not made or weight[mask].min() >= weight[masks[large][layer] & ~mask].max()
        for client, message in messages.items():
            for layer, mask in masks[client].items():
                sent = to_tensors(arrays_of(message))[f"{layer}.weight"]
                torch.testing.assert_close(sent, arrays[f"{layer}.weight"][mask], rtol=0, atol=0)
        average, _ = strategy.aggregate_train(round, list(grid.send_and_receive(messages.values())))
        assert average is not None
        arrays = to_tensors(average)
        for layer, mask in strategy.masks.items():
            assert not arrays[f"{layer}.weight"][~mask].any()


def test_a_weight_is_averaged_over_those_who_hold_it(small_settings: MakeSettings) -> None:
    prepared = prepare(small_settings("strategy=pruned", *SMALL))
    grid, strategy, before = Watched(prepared), strategy_of(prepared), dict(prepared.model.state_dict())
    messages = asked(prepared, grid, 1, before)
    replies = list(grid.send_and_receive(messages.values()))
    sizes = [len(partition.train) for partition in prepared.federation.partitions]
    average, _ = strategy.aggregate_train(1, replies)
    assert average is not None
    after = to_tensors(average)
    for layer, shape in strategy.shapes.items():
        total, held = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
        for reply in replies:
            client = reply.metadata.src_node_id
            mask = masks_in(messages[client], strategy)[layer]
            total[mask] += sizes[client] * to_tensors(arrays_of(reply))[f"{layer}.weight"].double()
            held[mask] += sizes[client]
        assert len(held.unique()) == 4  # nobody, the hubs, they and the phones, all
        expected = torch.where(held > 0, total / held, 0).float()
        torch.testing.assert_close(after[f"{layer}.weight"], expected, rtol=1e-6, atol=1e-8)
    dense = sum(
        size * to_tensors(arrays_of(reply))["features.0.weight"].double()
        for size, reply in zip(sizes, sorted(replies, key=lambda reply: reply.metadata.src_node_id), strict=True)
    )
    torch.testing.assert_close(after["features.0.weight"], (dense / sum(sizes)).float())


def test_what_nobody_holds_stays(small_settings: MakeSettings) -> None:
    prepared = prepare(small_settings("strategy=pruned", *SMALL))
    grid, strategy, before = Watched(prepared), strategy_of(prepared), dict(prepared.model.state_dict())
    messages = asked(prepared, grid, 1, before)
    replies = [
        reply
        if reply.metadata.src_node_id in WATCH
        else Message(Error(0, "gone"), reply_to=messages[reply.metadata.src_node_id])
        for reply in grid.send_and_receive(messages.values())
    ]
    average, _ = strategy.aggregate_train(1, replies)
    assert average is not None
    mask, after = masks_in(messages[WATCH[0]], strategy), to_tensors(average)
    for layer in strategy.shapes:
        weight, old = after[f"{layer}.weight"], before[f"{layer}.weight"]
        others = strategy.masks[layer] & ~mask[layer]
        assert others.any()
        assert weight[others].equal(old[others])
        assert not weight[mask[layer]].equal(old[mask[layer]])
    again = asked(prepared, grid, 2, after)
    assert [client for client in sorted(again) if SENT_MASKS not in again[client].content.array_records] == list(WATCH)


def test_each_device_is_evaluated_with_what_it_trains(small_settings: MakeSettings, tmp_path: Path) -> None:
    prepared = prepare(small_settings("strategy=pruned", *SMALL, "rounds=1"))
    result = run(prepared, tmp_path, Reporter())
    strategy = strategy_of(prepared)
    final = result.clients[result.clients["round"] == 1].set_index("client")
    model = prepared.model
    saved = load_file(tmp_path / "model.safetensors")
    files = dict.fromkeys(PHONE, f"pruned_{prepared.sizes['phone']:.6g}.safetensors")
    files |= dict.fromkeys(WATCH, f"pruned_{prepared.sizes['watch']:.6g}.safetensors")
    for client in range(6):
        part = load_pruned(tmp_path / files.get(client, "pruned.safetensors"))
        assert part.keys() == saved.keys()
        for name, tensor in apply(strategy.submodels.of(client).masks, saved).items():
            assert tensor.equal(part[name])
        model.load_state_dict(part)
        model.eval()
        tests = prepared.federation.domain_examples(prepared.federation.partitions[client].domain)
        images, labels = tests.batch(torch.arange(len(tests)))
        with torch.no_grad():
            right = (model(images).argmax(1) == labels).float().mean().item()
        assert final.loc[client, "accuracy"] == pytest.approx(right)
    assert result.summary["device_classes"] == {"phone": [*PHONE], "watch": [*WATCH]}
    rounds = pd.read_csv(tmp_path / "rounds.csv").iloc[-1]
    assert rounds["device_gflops_phone"] == pytest.approx(0.15, rel=1e-3)
    assert rounds["device_gflops_watch"] == pytest.approx(0.12, rel=1e-3)
    assert (
        rounds["density_watch"]
        < rounds["density_phone"]
        < rounds["density"]
        == pytest.approx(strategy.density, abs=1e-5)
    )


def test_candidates_are_tried_in_parts_that_fit(small_settings: MakeSettings) -> None:
    prepared = prepare(small_settings("strategy=fedtiny", "strategy.candidates=3", *SMALL))
    grid, strategy = Watched(prepared), strategy_of(prepared)
    assert isinstance(strategy, FedTiny)
    asked(prepared, grid, 1, dict(prepared.model.state_dict()))
    tried = [message for message in grid.seen if config_of(message).get(QUERY) == BN_STATISTICS]
    assert len(tried) == 3 * 6 == sum(config_of(each).get(QUERY) == CANDIDATE_LOSS for each in grid.seen)
    for message in tried:
        client = message.metadata.dst_node_id
        name = "watch" if client in WATCH else "phone" if client in PHONE else ""
        masks = masks_in(message, strategy)
        assert density(masks) == pytest.approx(prepared.sizes[name], abs=1e-5)
        assert {layer: len(to_tensors(arrays_of(message))[f"{layer}.weight"]) for layer in masks} == kept(masks)
    load = strategy.workload(WATCH[0])
    assert [sum(each.shares.values()) for each in load.queries] < [
        sum(each.shares.values()) for each in strategy.workload(3).queries
    ]


@pytest.mark.nightly
@pytest.mark.parametrize("method", ["pruned", "fedtiny"])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(small_settings: MakeSettings, tmp_path: Path, method: str) -> None:
    class Stops(Reporter):
        def round_done(self, round: int, metrics: object) -> None:
            if round == 1:
                raise KeyboardInterrupt

    words = (f"strategy={method}", *SMALL, "rounds=3", "fraction=0.5")
    run(prepare(small_settings(*words)), tmp_path / "whole", Reporter())
    with pytest.raises(KeyboardInterrupt):
        run(prepare(small_settings(*words)), tmp_path / "stopped", Stops())
    run(prepare(small_settings(*words, f"resume={tmp_path / 'stopped'}")), tmp_path / "stopped", Reporter())
    for name in ("clients.csv", "model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()
    traffic = [pd.read_csv(tmp_path / name / "rounds.csv")["bytes_down"].tolist()[1:] for name in ("whole", "stopped")]
    assert traffic[0] == traffic[1]


def test_classes_that_afford_as_much_change_nothing(small_settings: MakeSettings, tmp_path: Path) -> None:
    alike = "budget.classes={a:{clients:[0,1,2,3,4,5],flops:2e8}}"
    words = ("strategy=pruned", "strategy.density=null", "engine=inline", "rounds=1")
    run(prepare(small_settings(*words, "budget.flops=2e8")), tmp_path / "one", Reporter())
    run(prepare(small_settings(*words, alike)), tmp_path / "class", Reporter())
    for name in ("clients.csv", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "class" / name).read_bytes()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("aggregation=median",),
            r"^budget\.classes lets devices train networks of several densities, .* aggregation=mean",
        ),
        (
            ("diagnostics=true",),
            r"^diagnostics=true compares devices that train the same weights: leave it out, or budget",
        ),
    ],
)
def test_what_cannot_work_is_refused(small_settings: MakeSettings, words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        prepare(small_settings("strategy=pruned", *SMALL, *words))


def test_a_dense_method_that_a_class_cannot_afford_is_refused(small_settings: MakeSettings) -> None:
    with pytest.raises(
        UserError,
        match=r"^budget\.classes\.a\.flops=1e\+06 is not possible: a device needs .*, or a strategy that trains a",
    ):
        prepare(small_settings("budget.classes={a:{clients:[1],flops:1e6}}"))
