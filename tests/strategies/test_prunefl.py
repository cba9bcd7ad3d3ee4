"""PruneFL: squared gradients decide which weights take the places of the smallest, over all layers, at one density."""

from collections.abc import Callable

import pytest
import torch
from flwr.app import ConfigRecord

from fedsim.client.app_factory import ClientAppFactory
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import CACHED, arrays_of, config_of
from fedsim.methods.sparse.masks import Masks, kept, unpack
from fedsim.methods.sparse.records import MASKS, SQUARES, SQUARES_SINCE
from fedsim.server.preparation import Prepared, prepare
from strategies import PruneFL, prunefl

MakeSettings = Callable[..., Settings]
SMALL = ("strategy=prunefl", "strategy.density=0.05", "strategy.interval=1", "strategy.stop_round=3", "engine=inline")


@pytest.fixture
def prepared(small_settings: MakeSettings) -> Prepared:
    return prepare(small_settings(*SMALL))


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_small_weights_compete_with_what_is_not_there(small_settings: MakeSettings, weighting: str) -> None:
    prepared = prepare(small_settings(*SMALL, f"strategy.weighting={weighting}", "fraction=0.5"))
    strategy = prepared.strategy
    assert isinstance(strategy, PruneFL)
    grid = InlineGrid(ClientAppFactory(prepared.settings, prepared.federation), 6, [torch.device("cpu")])
    messages = list(strategy.configure_train(1, to_record(dict(prepared.model.state_dict())), ConfigRecord(), grid))
    before, replies = dict(strategy.masks), list(grid.send_and_receive(messages))
    told = [to_tensors(reply.content.array_records[SQUARES]) for reply in replies]
    trained = [unpack(before, to_tensors(arrays_of(reply))) for reply in replies]
    sizes = [50.0, 1.0, 1.0] if weighting == "examples" else [1.0, 1.0, 1.0]
    for reply, size in zip(replies, (50, 1, 1), strict=True):
        reply.content.metric_records["metrics"]["num-examples"] = size
    average, _ = strategy.aggregate_train(1, replies)
    assert average is not None

    shares = [size / sum(sizes) for size in sizes]
    stay, candidates = {}, []
    for layer, mask in before.items():
        weight = sum(share * each[f"{layer}.weight"].double() for share, each in zip(shares, trained, strict=True))
        score = sum(share * each[layer].double() for share, each in zip(shares, told, strict=True))
        assert isinstance(weight, torch.Tensor)
        assert isinstance(score, torch.Tensor)
        smallest = weight.abs().where(mask, torch.inf).flatten().topk(int(0.3 * int(mask.sum())), largest=False).indices
        stay[layer] = mask.clone()
        stay[layer].view(-1)[smallest] = False
        candidates += [(float(score[tuple(i)]), layer, tuple(i)) for i in (~stay[layer]).nonzero().tolist()]
    free = sum(kept(before).values()) - sum(kept(stay).values())
    for _, layer, place in sorted(candidates, reverse=True)[:free]:
        stay[layer][place] = True
    assert sum(not stay[layer].equal(before[layer]) for layer in before) == len(before)
    for layer, mask in strategy.masks.items():
        assert mask.equal(stay[layer]), layer
        weight = to_tensors(average)[f"{layer}.weight"]
        assert not weight[~mask].any()
        assert not weight[mask & ~before[layer]].any()  # what comes is zero at first


def test_it_adjusts_until_the_stop_round_and_says_what_that_costs(prepared: Prepared) -> None:
    grid = InlineGrid(ClientAppFactory(prepared.settings, prepared.federation), 6, [torch.device("cpu")])
    arrays, sent, loads = dict(prepared.model.state_dict()), [], []
    for round in range(1, 5):
        messages = list(prepared.strategy.configure_train(round, to_record(arrays), ConfigRecord(), grid))
        replies = list(grid.send_and_receive(messages))
        average, _ = prepared.strategy.aggregate_train(round, replies)
        assert average is not None
        arrays = to_tensors(average)
        sent.append(
            (f"{CACHED}{MASKS}" in messages[0].content.array_records, SQUARES in replies[0].content.array_records)
        )
        loads.append(prepared.strategy.workload(0))
    assert sent == [(True, True), (True, True), (True, False), (False, False)]
    assert [load.full_gradient_steps for load in loads] == [None, None, 0, 0]
    assert [len(load.full_gradient_layers) for load in loads] == [3, 3, 0, 0]
    assert [load.full_gradient_vectors for load in loads] == [2, 2, 0, 0]


def test_sums_begin_after_an_adjustment_and_end_with_the_last(small_settings: MakeSettings) -> None:
    prepared = prepare(small_settings("strategy=prunefl", "strategy.interval=3", "strategy.stop_round=9"))
    grid = InlineGrid(ClientAppFactory(prepared.settings, prepared.federation), 6, [torch.device("cpu")])
    arrays, asked = to_record(dict(prepared.model.state_dict())), []
    for round in range(1, 10):
        config = config_of(next(iter(prepared.strategy.configure_train(round, arrays, ConfigRecord(), grid))))
        asked.append((config.get(SQUARES_SINCE), config.get(SQUARES)))
    assert asked[:6] == [(1, False), (1, False), (1, True), (4, False), (4, False), (4, True)]
    assert asked[6:] == [(None, None)] * 3  # round 9 adjusts nothing


def test_the_contested_share_halves_with_every_half_life(
    small_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare(small_settings(*SMALL, "strategy.rate=0.4", "strategy.half_life=2", "strategy.stop_round=9"))
    grid = InlineGrid(ClientAppFactory(prepared.settings, prepared.federation), 6, [torch.device("cpu")])
    arrays, shares = to_record(dict(prepared.model.state_dict())), []

    def noted(masks: Masks, weights: object, squares: object, share: float) -> Masks:
        shares.append(share)
        return masks

    monkeypatch.setattr(prunefl, "contested_masks", noted)
    for round in (1, 2, 4):
        messages = list(prepared.strategy.configure_train(round, arrays, ConfigRecord(), grid))
        prepared.strategy.aggregate_train(round, grid.send_and_receive(messages))
    assert shares == pytest.approx([0.4 * 0.5**0.5, 0.2, 0.1])


@pytest.mark.parametrize("option", ["interval", "stop_round"])
def test_wrong_rounds_are_refused(small_settings: MakeSettings, option: str) -> None:
    with pytest.raises(UserError, match=rf"^strategy\.{option}=0 is not possible: choose a whole number of at least 1"):
        prepare(small_settings("strategy=prunefl", f"strategy.{option}=0"))


@pytest.mark.parametrize("option", ["rate=0", "rate=1.5", "half_life=0"])
def test_a_wrong_share_is_refused(small_settings: MakeSettings, option: str) -> None:
    with pytest.raises(UserError, match=rf"^strategy\.{option}.* is not possible: choose a number above 0"):
        prepare(small_settings("strategy=prunefl", f"strategy.{option}"))
