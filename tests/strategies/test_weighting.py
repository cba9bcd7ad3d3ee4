"""``strategy.weighting`` decides all averages of a method, also those that it forms beside that of the weights."""

import math
from collections.abc import Callable, Iterable, Iterator

import pytest
import torch
from flwr.app import ConfigRecord, Message

from fedsim.client.app_factory import ClientAppFactory
from fedsim.config.settings import Settings
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import (
    METRICS,
    NUM_EXAMPLES,
    QUERY,
    arrays_of,
    config_of,
    metrics_of,
    number,
)
from fedsim.methods.sparse.criteria import magnitude_masks
from fedsim.methods.sparse.records import BN_STATISTICS, CANDIDATE_LOSS, GRADIENTS, LAYER_GRADIENTS
from fedsim.server.preparation import Prepared, prepare
from strategies import FedTiny, Pruned

MakeSettings = Callable[..., Settings]
SIZES = (90, 1, 2, 3, 2, 1)
"""How many images the clients say that they have, so that it matters who counts how much."""
SMALL = ("strategy.density=0.05", "strategy.weighting={}", "engine=inline")
WEIGHTINGS = pytest.mark.parametrize("weighting", ["examples", "uniform"])


class Boasting(InlineGrid):
    """Keeps the replies, in which clients say that they have other numbers of images than they have."""

    def __init__(self, prepared: Prepared) -> None:
        super().__init__(ClientAppFactory(prepared.settings, prepared.federation), 6, [torch.device("cpu")])
        self.replies: dict[str, list[Message]] = {}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        for message in messages:
            (reply,) = super().send_and_receive([message])
            reply.content.metric_records[METRICS][NUM_EXAMPLES] = SIZES[message.metadata.dst_node_id]
            self.replies.setdefault(str(config_of(message).get(QUERY)), []).append(reply)
            yield reply


def shares(weighting: str) -> list[float]:
    return [size / sum(SIZES) if weighting == "examples" else 1 / 6 for size in SIZES]


def started(settings: Settings) -> tuple[Prepared, Boasting, list[Message]]:
    prepared = prepare(settings)
    grid = Boasting(prepared)
    arrays = to_record(dict(prepared.model.state_dict()))
    return prepared, grid, list(prepared.strategy.configure_train(1, arrays, ConfigRecord(), grid))


@WEIGHTINGS
def test_fedtiny_averages_statistics_losses_and_gradients(
    small_settings: MakeSettings, weighting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[float] = []
    original = FedTiny._try
    monkeypatch.setattr(
        FedTiny, "_try", lambda *given, **named: (tried.append((got := original(*given, **named))[0]), got)[1]
    )
    words = (*SMALL, "strategy.candidates=2", "strategy.blocks=3", "strategy.interval=1", "strategy.stop_round=5")
    settings = small_settings("strategy=fedtiny", *(word.format(weighting) for word in words))
    prepared, grid, messages = started(settings)

    losses = [number(metrics_of(reply), "loss") for reply in grid.replies[CANDIDATE_LOSS]]
    means = [sum(map(math.prod, zip(shares(weighting), part, strict=True))) for part in (losses[:6], losses[6:])]
    assert tried == pytest.approx(means, rel=1e-9)
    chosen = means.index(min(means)) * 6
    told = [to_tensors(arrays_of(reply)) for reply in grid.replies[BN_STATISTICS][chosen : chosen + 6]]
    for name, sent in to_tensors(arrays_of(messages[0])).items():
        if name in told[0]:
            mean = sum(share * each[name].double() for share, each in zip(shares(weighting), told, strict=True))
            torch.testing.assert_close(sent, mean, check_dtype=False, rtol=1e-6, atol=1e-7)

    strategy = prepared.strategy
    before = strategy.masks["head"]
    replies = list(grid.send_and_receive(messages))
    strategy.aggregate_train(1, replies)
    gradient = torch.zeros(before.numel(), dtype=torch.float64)
    for share, reply in zip(shares(weighting), replies, strict=True):
        found = to_tensors(reply.content.array_records[GRADIENTS])
        gradient[found["head/places"].long()] += share * found["head/values"].double()
    grown = (strategy.masks["head"] & ~before).flatten().nonzero()[:, 0]
    assert set(grown.tolist()) == set(gradient.abs().topk(len(grown)).indices.tolist())


@WEIGHTINGS
def test_snip_averages_gradients(small_settings: MakeSettings, weighting: str) -> None:
    words = (word.format(weighting) for word in (*SMALL, "strategy.criterion=snip"))
    prepared, grid, _ = started(small_settings("strategy=pruned", *words))
    strategy, state = prepared.strategy, prepared.model.state_dict()
    assert isinstance(strategy, Pruned)
    told = [to_tensors(arrays_of(reply)) for reply in grid.replies[LAYER_GRADIENTS]]
    scores = []
    for layer in strategy.shapes:
        mean = sum(share * each[layer].double() for share, each in zip(shares(weighting), told, strict=True))
        assert isinstance(mean, torch.Tensor)
        scores.append((state[f"{layer}.weight"] * mean).abs().flatten())
    kept = torch.cat([strategy.masks[layer].flatten() for layer in strategy.shapes])
    least = torch.cat(scores).topk(int(kept.sum())).values[-1]
    assert (torch.cat(scores)[kept] >= least * (1 - 1e-5)).all()
    other = magnitude_masks({layer: state[f"{layer}.weight"] for layer in strategy.shapes}, strategy.counts)
    assert not all(strategy.masks[layer].equal(mask) for layer, mask in other.items())
