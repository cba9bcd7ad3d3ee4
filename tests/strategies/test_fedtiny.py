"""FedTiny's selection and its progressive pruning, each against a computation of its own."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator

import pytest
import torch
from flwr.app import ConfigRecord, Error, Message
from torch import nn
from torch.nn import functional as F

from fedsim.client.app_factory import ClientAppFactory
from fedsim.config.settings import Settings
from fedsim.core.errors import RoundFailed, UserError
from fedsim.core.seeding import torch_generator
from fedsim.cost import Workload
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import (
    CACHED,
    QUERY,
    TRAIN,
    arrays_of,
    config_of,
    metrics_of,
)
from fedsim.methods.sparse.criteria import magnitude_masks
from fedsim.methods.sparse.masks import Masks, apply, decode, kept
from fedsim.methods.sparse.records import BN_STATISTICS, CANDIDATE_LOSS, GRADIENTS, GROW, MASKS
from fedsim.server.preparation import Prepared, prepare
from strategies import FedTiny

MakeSettings = Callable[..., Settings]
SENT_MASKS = f"{CACHED}{MASKS}"
SMALL = ("strategy=fedtiny", "strategy.density=0.05", "strategy.candidates=3", "strategy.blocks=3", "engine=inline")


class Watched(InlineGrid):
    """Keeps the messages it passes on and their replies; some clients may be made to fail."""

    def __init__(self, prepared: Prepared) -> None:
        super().__init__(ClientAppFactory(prepared.settings, prepared.federation), 6, [torch.device("cpu")])
        self.seen: list[tuple[Message, Message]] = []
        self.failing: set[int] = set()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        for message in messages:
            (reply,) = super().send_and_receive([message])
            if message.metadata.dst_node_id in self.failing:
                reply = Message(Error(0, "gone"), reply_to=message)
            self.seen.append((message, reply))
            yield reply

    def of(self, query: str) -> list[tuple[Message, Message]]:
        return [pair for pair in self.seen if config_of(pair[0]).get(QUERY) == query]

    def trained(self) -> list[tuple[Message, Message]]:
        return [pair for pair in self.seen if pair[0].metadata.message_type == TRAIN]


def tiny(prepared: Prepared) -> FedTiny:
    assert isinstance(prepared.strategy, FedTiny)
    return prepared.strategy


def asked(prepared: Prepared, grid: InlineGrid, round: int, arrays: dict[str, torch.Tensor]) -> list[Message]:
    return list(prepared.strategy.configure_train(round, to_record(arrays), ConfigRecord(), grid))


def share_of(prepared: Prepared, client: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The tenth of a client's images that the selection is made on."""
    data = prepared.federation.examples(prepared.federation.partitions[client].train)
    generator = torch_generator(prepared.settings.seed, "selection", client=client)
    count = max(1, round(tiny(prepared).selection_share * len(data)))
    return data.batch(torch.randperm(len(data), generator=generator)[:count])


def by_hand(prepared: Prepared, masks: Masks) -> tuple[float, dict[str, torch.Tensor]]:
    """The mean loss of a candidate over all clients, with the average of the statistics they have under it."""
    model = prepared.model
    dense = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    shares = [share_of(prepared, client) for client in range(6)]
    images = sum(len(labels) for _, labels in shares)
    average: dict[str, torch.Tensor] = {}
    for pixels, labels in shares:
        model.load_state_dict(apply(masks, dense))
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 1.0  # running statistics are those of the one batch
        model.train()(pixels)
        for name, tensor in model.state_dict().items():
            if "running" in name:
                average[name] = average.get(name, torch.zeros(())) + len(labels) / images * tensor
    model.load_state_dict({**apply(masks, dense), **average})
    model.eval()
    with torch.no_grad():
        total = sum(F.cross_entropy(model(pixels), labels, reduction="sum").item() for pixels, labels in shares)
    model.load_state_dict(dense)
    return total / images, average


@pytest.fixture
def selection(small_settings: MakeSettings) -> tuple[Prepared, Watched, list[Message]]:
    prepared = prepare(small_settings(*SMALL, "strategy.selection_share=0.5"))
    grid = Watched(prepared)
    return prepared, grid, asked(prepared, grid, 1, dict(prepared.model.state_dict()))


def test_the_candidate_of_the_smallest_loss_is_trained_with_its_averaged_statistics(
    selection: tuple[Prepared, Watched, list[Message]],
) -> None:
    prepared, _, messages = selection
    strategy, state = tiny(prepared), prepared.model.state_dict()
    weights = {layer: state[f"{layer}.weight"] for layer in strategy.shapes}
    pool = [magnitude_masks(weights, counts) for counts in strategy.candidates]
    assert len({tuple(kept(masks).values()) for masks in pool}) == 3
    tried = [by_hand(prepared, masks) for masks in pool]
    best = min(range(3), key=lambda number: tried[number][0])
    assert sorted(loss for loss, _ in tried)[1] - tried[best][0] > 1e-5, "too close to tell: choose another seed"
    assert all(torch.equal(strategy.masks[layer], pool[best][layer]) for layer in strategy.masks)
    sent = to_tensors(arrays_of(messages[0]))
    for name, expected in tried[best][1].items():
        torch.testing.assert_close(sent[name], expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(sent[name], state[name])


def test_a_candidate_is_sent_once_and_nothing_of_it_is_left(selection: tuple[Prepared, Watched, list[Message]]) -> None:
    prepared, grid, _ = selection
    statistics, losses = grid.of(BN_STATISTICS), grid.of(CANDIDATE_LOSS)
    assert len(statistics) == len(losses) == 3 * 6
    names = {name for name in prepared.model.state_dict() if "running" in name}
    for message, reply in statistics:
        assert MASKS in message.content.array_records
        assert set(arrays_of(reply)) == names
        assert list(metrics_of(reply)) == ["num-examples"]
    for message, reply in losses:
        assert MASKS not in message.content.array_records
        assert set(arrays_of(message)) == names
        assert not reply.content.array_records
    assert not any(state.array_records for state in grid.client_states().values())


def test_losses_are_averaged_over_images(selection: tuple[Prepared, Watched, list[Message]]) -> None:
    prepared, grid, _ = selection
    replies = [metrics_of(reply) for _, reply in grid.of(CANDIDATE_LOSS)[:6]]
    images = [int(reply["num-examples"]) for reply in replies]  # type: ignore[arg-type]
    mean = sum(count * float(reply["loss"]) for count, reply in zip(images, replies, strict=True)) / sum(images)  # type: ignore[arg-type]
    weights = {layer: prepared.model.state_dict()[f"{layer}.weight"] for layer in tiny(prepared).shapes}
    first = magnitude_masks(weights, tiny(prepared).candidates[0])
    assert mean == pytest.approx(by_hand(prepared, first)[0], rel=1e-4)


def test_a_client_that_fails_is_left_out_and_all_of_them_end_the_run(small_settings: MakeSettings) -> None:
    prepared = prepare(small_settings(*SMALL))
    grid = Watched(prepared)
    grid.failing = {1, 2}
    asked(prepared, grid, 1, dict(prepared.model.state_dict()))
    assert tiny(prepared).masks
    other = prepare(small_settings(*SMALL))
    grid = Watched(other)
    grid.failing = set(range(6))
    with pytest.raises(RoundFailed, match="all 6 clients that were asked before training failed"):
        asked(other, grid, 1, dict(other.model.state_dict()))


def test_without_batch_norm_the_losses_decide_alone(
    small_settings: MakeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    prepared = prepare(small_settings(*SMALL, "norm=sws"))
    grid = Watched(prepared)
    with caplog.at_level(logging.WARNING):
        asked(prepared, grid, 1, dict(prepared.model.state_dict()))
    assert "no running statistics: candidates are selected by their losses alone" in caplog.text
    assert not grid.of(BN_STATISTICS)
    assert all(MASKS in message.content.array_records for message, _ in grid.of(CANDIDATE_LOSS))
    alone = prepare(small_settings(*SMALL, "norm=sws", "strategy.candidates=1"))
    grid = Watched(alone)
    asked(alone, grid, 1, dict(alone.model.state_dict()))
    assert not grid.seen  # with one candidate there is nothing to decide


def played(
    prepared: Prepared, grid: Watched, rounds: int
) -> Iterator[tuple[int, Masks, dict[str, torch.Tensor], list[Message]]]:
    """Round by round the masks that were trained, the average and the replies."""
    arrays = dict(prepared.model.state_dict())
    for round in range(1, rounds + 1):
        messages = asked(prepared, grid, round, arrays)
        masks = dict(tiny(prepared).masks)
        replies = list(grid.send_and_receive(messages))
        average, _ = prepared.strategy.aggregate_train(round, replies)
        assert average is not None
        arrays = to_tensors(average)
        yield round, masks, arrays, replies


def test_masks_change_block_by_block_and_layers_keep_their_densities(small_settings: MakeSettings) -> None:
    prepared = prepare(small_settings(*SMALL, "strategy.interval=1", "strategy.stop_round=5"))
    grid, changed = Watched(prepared), []
    for round, before, arrays, replies in played(prepared, grid, 6):
        after = tiny(prepared).masks
        moved = [layer for layer in before if not torch.equal(before[layer], after[layer])]
        changed.append(moved)
        assert kept(after) == kept(before)
        for layer in after:
            weight = arrays[f"{layer}.weight"]
            assert not weight[~after[layer]].any()
            grown = after[layer] & ~before[layer]
            assert not weight[grown].any()  # they start at zero
            share = 0.15 * (1 + math.cos(math.pi * round / 5))
            count = math.ceil(share * kept(before)[layer]) if layer in moved else 0
            assert int(grown.sum()) == int((before[layer] & ~after[layer]).sum()) == count
        told = [GRADIENTS in reply.content.array_records for reply in replies]
        assert told == [bool(moved)] * 6
    assert changed == [["head"], ["features.8"], ["features.4"], ["head"], [], []]


def test_the_largest_averaged_gradients_grow_and_the_smallest_weights_go(small_settings: MakeSettings) -> None:
    prepared = prepare(small_settings(*SMALL, "strategy.interval=1", "strategy.stop_round=5"))
    grid = Watched(prepared)
    _, before, _, replies = next(iter(played(prepared, grid, 1)))
    after = tiny(prepared).masks["head"]
    sizes = [len(partition.train) for partition in prepared.federation.partitions]
    gradient = torch.zeros(2560, dtype=torch.float64)
    weight = torch.zeros(int(before["head"].sum()), dtype=torch.float64)
    for size, reply in zip(sizes, replies, strict=True):
        told = to_tensors(reply.content.array_records[GRADIENTS])
        for place, value in zip(told["head/places"].tolist(), told["head/values"].tolist(), strict=True):
            assert not before["head"].flatten()[place]
            gradient[place] += size / sum(sizes) * value
        weight += size / sum(sizes) * to_tensors(arrays_of(reply))["head.weight"].double()
    count = math.ceil(0.15 * (1 + math.cos(math.pi / 5)) * len(weight))
    grown = (after & ~before["head"]).flatten().nonzero()[:, 0]
    assert set(grown.tolist()) == set(gradient.abs().topk(count).indices.tolist())
    gone = (~after)[before["head"]]
    assert set(gone.nonzero()[:, 0].tolist()) == set(weight.abs().topk(count, largest=False).indices.tolist())


def test_changed_masks_are_sent_to_everyone_and_only_then(small_settings: MakeSettings) -> None:
    prepared = prepare(small_settings(*SMALL, "strategy.interval=2", "strategy.stop_round=4"))
    grid = Watched(prepared)
    with_masks = {}
    for round, masks, _, _ in played(prepared, grid, 5):
        messages = [message for message, _ in grid.trained()[-6:]]
        with_masks[round] = [SENT_MASKS in message.content.array_records for message in messages]
        if with_masks[round][0]:
            sent = decode(to_tensors(messages[0].content.array_records[SENT_MASKS]), tiny(prepared).shapes)
            assert all(torch.equal(sent[layer], masks[layer]) for layer in masks)
        wanted = [name for name in config_of(messages[0]) if name.startswith(GROW)]
        assert wanted == ([f"{GROW}head"] if round == 2 else [])
    assert with_masks == {1: [True] * 6, 2: [False] * 6, 3: [True] * 6, 4: [False] * 6, 5: [False] * 6}


def test_the_workload_of_a_round_says_what_was_done_in_it(small_settings: MakeSettings) -> None:
    prepared = prepare(small_settings(*SMALL, "strategy.interval=2", "strategy.stop_round=8"))
    loads = [prepared.strategy.workload(0) for _ in played(prepared, Watched(prepared), 3)]
    assert [len(load.queries) for load in loads] == [3, 0, 0]
    assert [load.full_gradient_layers for load in loads] == [(), ("head",), ()]
    assert [load.full_gradient_steps for load in loads] == [load.extra_steps for load in loads] == [0, 1, 0]
    count = math.ceil(0.15 * (1 + math.cos(math.pi / 4)) * kept(tiny(prepared).masks)["head"])
    assert [load.top_k for load in loads] == [0, count, 0]
    assert Workload() == prepare(small_settings("engine=inline")).strategy.workload(0)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("strategy.candidates=0",),
            r"^strategy\.candidates=0 is not possible: choose a whole number of at least 1\.$",
        ),
        (("strategy.selection_share=0",), r"^strategy\.selection_share=0 is not possible: choose a number above 0 and"),
        (("strategy.selection_share=1.5",), r"^strategy\.selection_share=1\.5 is not possible"),
        (("strategy.interval=0",), r"^strategy\.interval=0 is not possible"),
        (("strategy.rate=2",), r"^strategy\.rate=2 is not possible"),
        (("strategy.blocks=9",), r"^strategy\.blocks=9 is not possible: choose a whole number from 1 to 3"),
        (("strategy.blocks=[features]",), r"^strategy\.blocks=\['features'\] leaves out head"),
        (("strategy.density=2",), r"^strategy\.density=2 is not possible"),
    ],
)
def test_what_cannot_work_is_refused(small_settings: MakeSettings, words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        prepare(small_settings("strategy=fedtiny", "strategy.blocks=3", *words))


def test_candidates_are_drawn_from_the_seed_and_may_be_judged_on_all_images(small_settings: MakeSettings) -> None:
    def pool(seed: int) -> object:
        words = ("strategy=fedtiny", "strategy.candidates=3", "strategy.selection_share=1", f"seed={seed}")
        return tiny(prepare(small_settings(*words))).candidates

    assert pool(1) == pool(1) != pool(2)
