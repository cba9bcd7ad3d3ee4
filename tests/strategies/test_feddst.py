"""FedDST: what the server makes of clients that hold different weights, by hand."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Message

from fedsim.core.errors import UserError
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import CACHED, arrays_of, bytes_of, config_of
from fedsim.methods.sparse.masks import Masks, decode, density, encode, kept
from fedsim.methods.sparse.records import MASKS, REPLACE
from fedsim.output.progress import Reporter
from fedsim.server.preparation import Prepared, prepare
from fedsim.server.simulation import run
from tests.strategies.feddst_runs import EVERY, SMALL, MakeSettings, Tensors, Watched, dst


def played(prepared: Prepared, grid: Watched, rounds: int) -> Iterator[tuple[int, Masks, Tensors, list[Message]]]:
    """Round by round the masks that were sent, the average and the replies."""
    arrays = dict(prepared.model.state_dict())
    for round in range(1, rounds + 1):
        messages = list(prepared.strategy.configure_train(round, to_record(arrays), ConfigRecord(), grid))
        masks = dict(dst(prepared).masks)
        replies = list(grid.send_and_receive(messages))
        average, _ = prepared.strategy.aggregate_train(round, replies)
        assert average is not None
        arrays = to_tensors(average)
        yield round, masks, arrays, replies


def masks_in(reply: Message, prepared: Prepared) -> Masks:
    return decode(to_tensors(reply.content.array_records[MASKS]), dst(prepared).shapes)


def joined_by_hand(
    replies: list[Message], weights: dict[int, float], prepared: Prepared, count: int, layer: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's mask and weight, of the replies."""
    shape = dst(prepared).shapes[layer]
    total, held = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    for reply in replies:
        if not reply.has_error():
            mask, weight = masks_in(reply, prepared)[layer], weights[reply.metadata.src_node_id]
            total[mask] += weight * to_tensors(arrays_of(reply))[f"{layer}.weight"].double()
            held[mask] += weight
    mean = torch.where(held > 0, total / held, 0).float()
    order = sorted(range(shape.numel()), key=lambda place: -abs(mean.flatten()[place].item()))
    mask = torch.zeros(shape.numel(), dtype=torch.bool)
    mask[order[:count]] = True
    return mask.view(shape), mean.where(mask.view(shape), 0)


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_a_weight_is_averaged_over_those_who_hold_it_and_the_largest_are_kept(
    small_settings: MakeSettings, weighting: str
) -> None:
    prepared = prepare(small_settings(*SMALL, *EVERY, f"strategy.weighting={weighting}", "split=dirichlet"))
    grid, strategy = Watched(prepared), dst(prepared)
    grid.failing = {1}
    sizes = {client: float(len(each.train)) for client, each in enumerate(prepared.federation.partitions)}
    assert len(set(sizes.values())) > 1
    _, before, after, replies = next(played(prepared, grid, 1))
    assert len(replies) == 6
    for layer in before:
        weights = sizes if weighting == "examples" else dict.fromkeys(sizes, 1.0)
        mask, weight = joined_by_hand(replies, weights, prepared, int(before[layer].sum()), layer)
        assert torch.equal(strategy.masks[layer], mask)
        torch.testing.assert_close(after[f"{layer}.weight"], weight, rtol=1e-5, atol=1e-8)
        assert not mask.equal(before[layer])
        everyone = [masks_in(reply, prepared)[layer] for reply in replies if not reply.has_error()]
        assert not any(each.equal(everyone[0]) for each in everyone[1:])  # each found weights of its own
    assert strategy.submodels.whole.broadcast.holders == set()  # nobody has the new masks


def test_masks_change_and_every_layer_keeps_its_density(small_settings: MakeSettings) -> None:
    prepared = prepare(small_settings(*SMALL, "strategy.interval=2", "strategy.stop_round=5", "local_epochs=2"))
    grid, changed = Watched(prepared), []
    first = None
    for round, before, arrays, replies in played(prepared, grid, 6):
        first = kept(before) if first is None else first
        after, asked = dst(prepared).masks, config_of(grid.trained()[-1][0])
        assert kept(after) == kept(before) == first
        assert density(after) == pytest.approx(0.2, abs=1e-5)
        changed.append(any(not mask.equal(before[layer]) for layer, mask in after.items()))
        share = 0.15 * (1 + math.cos(math.pi * round / 5))
        counts = {layer: math.ceil(share * count) for layer, count in kept(before).items()} if round in (2, 4) else {}
        assert {name: asked[name] for name in asked if name.startswith(REPLACE)} == {
            f"{REPLACE}{layer}": count for layer, count in counts.items()
        }
        for reply in replies:
            assert (MASKS in reply.content) == bool(counts)
            mine = masks_in(reply, prepared) if counts else before
            assert kept(mine) == kept(before)
            for layer, mask in mine.items():
                assert len(to_tensors(arrays_of(reply))[f"{layer}.weight"]) == int(mask.sum())
                assert int((mask & ~before[layer]).sum()) <= counts.get(layer, 0)
        for layer, mask in after.items():
            assert not arrays[f"{layer}.weight"][~mask].any()
            assert arrays[f"{layer}.weight"][mask].all()
    assert changed == [False, True, False, True, False, False]
    with_masks = [f"{CACHED}{MASKS}" in message.content for message, _ in grid.trained()[::6]]
    assert with_masks == [True, False, True, False, True, False]


def test_a_layer_that_is_full_has_nothing_to_replace(small_settings: MakeSettings) -> None:
    """As ERK leaves the smallest layer here."""
    prepared = prepare(small_settings(*SMALL, *EVERY, "strategy.distribution=erk"))
    for _, before, after, replies in played(prepared, Watched(prepared), 3):
        assert before["head"].all()
        assert all(set(reply.content.array_records[MASKS]) == set(before) - {"head"} for reply in replies)
        sizes = [len(partition.train) for partition in prepared.federation.partitions]
        mean = sum(
            n * to_tensors(arrays_of(reply))["head.weight"].double() for n, reply in zip(sizes, replies, strict=True)
        )
        torch.testing.assert_close(after["head.weight"].flatten(), (mean / sum(sizes)).float())  # type: ignore[operator]
        assert kept(dst(prepared).masks) == kept(before)


def test_what_all_clients_drop_is_gone(small_settings: MakeSettings) -> None:
    """Before any training all drop the same, and the share is so large that what they find differs."""
    prepared = prepare(small_settings(*SMALL, *EVERY, "strategy.adjust_after=0", "strategy.rate=1"))
    _, before, after, replies = next(played(prepared, Watched(prepared), 1))
    for layer, mask in before.items():
        gone = mask & ~torch.stack([masks_in(reply, prepared)[layer] for reply in replies]).any(dim=0)
        assert gone.any()
        assert not dst(prepared).masks[layer][gone].any()
        assert not after[f"{layer}.weight"][gone].any()


def test_of_weights_that_are_zero_those_that_nobody_holds_are_not_kept(small_settings: MakeSettings) -> None:
    """What comes after the last step is zero, and may be kept only where too few others are left."""
    prepared = prepare(small_settings(*SMALL, *EVERY, "strategy.adjust_after=1", "fraction=0.17"))
    _, before, after, (reply,) = next(played(prepared, Watched(prepared), 1))  # one client, so that all of it is kept
    for layer, mask in masks_in(reply, prepared).items():
        assert torch.equal(dst(prepared).masks[layer], mask)
        come = mask & ~before[layer]
        assert come.any()
        assert not after[f"{layer}.weight"][come].any()


def test_without_an_adjustment_it_is_the_pruned_network_bit_for_bit(
    small_settings: MakeSettings, tmp_path: Path
) -> None:
    words = ("strategy.density=0.2", "engine=inline", "rounds=3", "fraction=0.5")
    run(prepare(small_settings("strategy=pruned", "strategy.distribution=erk", *words)), tmp_path / "a", Reporter())
    run(prepare(small_settings("strategy=feddst", *words)), tmp_path / "b", Reporter())
    for name in ("clients.csv", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_accounts_say_what_a_round_took(small_settings: MakeSettings, tmp_path: Path) -> None:
    prepared = prepare(small_settings(*SMALL, "strategy.interval=2", "strategy.stop_round=8", "rounds=3"))
    loads = []
    grid = Watched(prepared)
    for _, masks, _, replies in played(prepared, grid, 3):
        loads.append(prepared.strategy.workload(0))
        mask_bytes = sum(code.nbytes for code in encode(masks).values())
        counted = [
            bytes_of(reply) - sum(array.nbytes for array in to_tensors(arrays_of(reply)).values()) for reply in replies
        ]
        assert counted == [mask_bytes if loads[-1].top_k else 0] * 6
    count = sum(math.ceil(0.15 * (1 + math.cos(math.pi / 4)) * each) for each in kept(dst(prepared).masks).values())
    assert [load.top_k for load in loads] == [0, count, 0]
    assert [load.full_gradient_steps for load in loads] == [load.extra_steps for load in loads] == [0, 1, 0]
    assert [set(load.full_gradient_layers) for load in loads] == [set(), set(dst(prepared).shapes), set()]
    rounds = run(prepare(prepared.settings), tmp_path / "run", Reporter()).rounds
    flops, memory = rounds["device_gflops"].tolist()[1:], rounds["device_memory_mb"].tolist()[1:]
    assert flops[0] == flops[2] < flops[1]
    assert memory[0] == memory[2] < memory[1] == pytest.approx(memory[0] + 8 * count / 1e6, rel=1e-3)
    assert rounds["density"].tolist()[1:] == pytest.approx([0.2] * 3, abs=1e-4)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("strategy.interval=0",), r"^strategy\.interval=0 is not possible: choose a whole number of at least 1"),
        (("strategy.stop_round=0",), r"^strategy\.stop_round=0 is not possible: choose a whole number of at least 1"),
        (("strategy.rate=2",), r"^strategy\.rate=2 is not possible: choose a number above 0 and at most 1"),
        (("strategy.adjust_after=2",), r"^strategy\.adjust_after=2 is not possible: choose a number from 0 to 1\.$"),
        (("strategy.adjust_after=x",), r"^strategy\.adjust_after=x is not possible: choose a number\.$"),
        (("strategy.distribution=er",), r"^strategy\.distribution=er is not known: choose uniform or erk"),
        (
            ("strategy.blocks=2",),
            r"^strategy\.blocks=2 is not a setting|^strategy\.blocks=2 is not an option of feddst",
        ),
        (
            ("aggregation=median",),
            r"^strategy=feddst has clients send other weights .* choose aggregation=mean and priv",
        ),
        (
            ("privacy=server_fixed_clipping",),
            r"^strategy=feddst has clients .* choose aggregation=mean and privacy=none",
        ),
        (
            ("strategy.density=null", "budget.flops=3e8", "budget.classes={a:{clients:[0],flops:2.2e8}}"),
            r"^strategy=feddst has every device replace weights of the same network, and budget\.classes gives",
        ),
    ],
)
def test_what_cannot_work_is_refused(small_settings: MakeSettings, words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        prepare(small_settings("strategy=feddst", *words))


def test_a_budget_for_all_devices_chooses_the_density(small_settings: MakeSettings) -> None:
    prepared = prepare(small_settings("strategy=feddst", "strategy.density=null", "budget.flops=2.5e8"))
    assert 0 < dst(prepared).density == prepared.sizes[""] < 1
