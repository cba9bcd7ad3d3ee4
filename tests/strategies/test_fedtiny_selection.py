"""FedTiny's selection where statistics do not travel, and where clients weigh alike, against losses by hand."""

import logging
from collections.abc import Callable

import pytest
import torch
from flwr.app import ConfigRecord, Message
from timm.layers.evo_norm import EvoNorm2dB0
from torch import nn
from torch.nn import functional as F

from fedsim.client.app_factory import ClientAppFactory
from fedsim.config.settings import Settings
from fedsim.core.seeding import torch_generator
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import QUERY, arrays_of, config_of
from fedsim.methods.sparse.criteria import magnitude_masks
from fedsim.methods.sparse.masks import Masks, apply
from fedsim.methods.sparse.records import BN_STATISTICS
from fedsim.norms import EstimatedBatchNorm, PowerNorm, UnifiedNorm
from fedsim.server.preparation import Prepared, prepare
from strategies import FedTiny

MakeSettings = Callable[..., Settings]
SMALL = ("strategy=fedtiny", "strategy.density=0.05", "strategy.candidates=3", "strategy.selection_share=0.5")
RUNNING = {
    nn.BatchNorm2d: ("running_mean", "running_var"),
    EstimatedBatchNorm: ("running_mean", "running_var"),
    EvoNorm2dB0: (None, "running_var"),
    PowerNorm: (None, "phi"),
    UnifiedNorm: (None, "running_var"),
}


def share_of(prepared: Prepared, client: int) -> tuple[torch.Tensor, torch.Tensor]:
    data = prepared.federation.examples(prepared.federation.partitions[client].train)
    generator = torch_generator(prepared.settings.seed, "selection", client=client)
    return data.batch(torch.randperm(len(data), generator=generator)[: round(0.5 * len(data))])


def adapted_loss(prepared: Prepared, masks: Masks, client: int) -> float:
    """With each layer's statistics computed from what it is given once those before it have theirs, layer by layer."""
    model, (pixels, labels) = prepared.model, share_of(prepared, client)
    dense = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(apply(masks, dense))
    model.eval()
    layers = [layer for layer in model.modules() if type(layer) in RUNNING]
    before = [{name: buffer.clone() for name, buffer in layer.named_buffers()} for layer in layers]
    given: list[torch.Tensor] = []
    with torch.no_grad():
        for layer in layers:
            hook = layer.register_forward_pre_hook(lambda _, args: given.append(args[0]))
            model(pixels)
            hook.remove()
            x = given.pop().transpose(0, 1).flatten(1)
            mean_name, spread_name = RUNNING[type(layer)]
            if mean_name:
                layer.get_buffer(mean_name).copy_(x.mean(1))
            squares = isinstance(layer, PowerNorm | UnifiedNorm)
            layer.get_buffer(spread_name).copy_(x.square().mean(1) if squares else x.var(1))
        loss = F.cross_entropy(model(pixels), labels).item()
        for layer, buffers in zip(layers, before, strict=True):
            for name, buffer in buffers.items():
                layer.get_buffer(name).copy_(buffer)
    model.load_state_dict(dense)
    return loss


def unadapted_loss(prepared: Prepared, masks: Masks) -> float:
    """With the statistics that every network begins with."""
    model, losses = prepared.model, []
    dense = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(apply(masks, dense))
    model.eval()
    with torch.no_grad():
        losses = [F.cross_entropy(model(p), y).item() for p, y in (share_of(prepared, client) for client in range(6))]
    model.load_state_dict(dense)
    return sum(losses) / 6


def selected(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> tuple[list[float], list[Masks], list[Message]]:
    """The losses that decided, the candidates, and the messages of the first round."""
    strategy, tried, asked = prepared.strategy, [], []
    assert isinstance(strategy, FedTiny)

    class Watched(InlineGrid):
        def send_and_receive(self, messages, *, timeout=None):  # type: ignore[no-untyped-def]
            for message in messages:
                asked.append(config_of(message)[QUERY])
                yield from super().send_and_receive([message])

    original = strategy._try

    def attempt(*args, **kwargs):  # type: ignore[no-untyped-def]
        tried.append(original(*args, **kwargs))
        return tried[-1]

    monkeypatch.setattr(strategy, "_try", attempt)
    grid = Watched(ClientAppFactory(prepared.settings, prepared.federation), 6, [torch.device("cpu")])
    state = dict(prepared.model.state_dict())
    messages = list(strategy.configure_train(1, to_record(state), ConfigRecord(), grid))
    pool = [
        magnitude_masks({layer: state[f"{layer}.weight"] for layer in strategy.shapes}, counts)
        for counts in strategy.candidates
    ]
    assert BN_STATISTICS not in asked
    return [loss for loss, _ in tried], pool, messages


@pytest.mark.parametrize(
    "words",
    [
        ("norm.policy=fedbn",),
        ("norm.policy=silobn",),
        ("norm.statistics=none",),
        ("norm.statistics=none", "norm.evaluation=reestimated"),
        ("norm=powernorm",),
        ("norm=powernorm", "norm.policy=fedbn"),
        ("norm=unified",),
        ("norm=bcn", "norm.estimated=true"),
        ("norm=evonorm_b0",),
    ],
    ids=" ".join,
)
def test_candidates_are_judged_by_statistics_of_the_clients_own(
    small_settings: MakeSettings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    words: tuple[str, ...],
) -> None:
    prepared = prepare(small_settings(*SMALL, *words))
    with caplog.at_level(logging.INFO):
        losses, pool, messages = selected(prepared, monkeypatch)
    expected = [sum(adapted_loss(prepared, masks, client) for client in range(6)) / 6 for masks in pool]
    assert losses == pytest.approx(expected, rel=1e-4)
    flat = [unadapted_loss(prepared, masks) for masks in pool]
    if "norm=evonorm_b0" not in words:  # it divides by the deviation of the image where that is larger
        assert max(abs(loss - other) for loss, other in zip(losses, flat, strict=True)) > 1e-3
    best = min(range(3), key=expected.__getitem__)
    assert all(prepared.strategy.masks[layer].equal(mask) for layer, mask in pool[best].items())
    assert "each client evaluates candidates with its own" in caplog.text
    assert "no running statistics" not in caplog.text
    state = prepared.model.state_dict()  # nothing of the statistics is left behind
    for name, tensor in to_tensors(arrays_of(messages[0])).items():
        assert "running" not in name or tensor.equal(state[name])


def test_nothing_of_a_candidates_statistics_stays_in_the_model(small_settings: MakeSettings) -> None:
    """The grid's resident model goes on to play other clients: two selections are alike."""
    for words in (("norm.policy=fedbn",), ("norm=unified",)):
        prepared = prepare(small_settings(*SMALL, *words))
        grid = InlineGrid(ClientAppFactory(prepared.settings, prepared.federation), 6, [torch.device("cpu")])
        strategy, arrays = prepared.strategy, dict(prepared.model.state_dict())
        assert isinstance(strategy, FedTiny)
        pool = [
            magnitude_masks({layer: arrays[f"{layer}.weight"] for layer in strategy.shapes}, counts)
            for counts in strategy.candidates
        ]
        losses = [strategy._try(pool[0], arrays, list(range(6)), grid, with_statistics=False)[0] for _ in range(2)]
        assert losses[0] == losses[1]
