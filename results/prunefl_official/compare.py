"""PruneFL here against the authors' code, on equal tensors: ``python -m results.prunefl_official.compare --code DIR``.

``DIR`` holds the folders ``bases``, ``control`` and ``utils`` of the authors' repository (b499d3a). Each row that is
printed is one comparison.
"""

import argparse
import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from flwr.app import ConfigRecord
from torch import nn
from torch.nn.functional import cross_entropy

import clients
from datasets.examples import Examples
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.methods.interfaces import Record, TrainingContext
from fedsim.methods.sparse.adjustment import contested_masks
from fedsim.methods.sparse.masks import Masks, encode, entry, kept, pack
from fedsim.methods.sparse.records import MASKS, SQUARES, SQUARES_SINCE
from fedsim.methods.training import LocalTraining

DRAWS, DENSITIES, SHARES = 20, (0.02, 0.05, 0.2, 0.5), (0.0, 0.1, 0.3, 0.7)
TRAINING = LocalTraining(local_epochs=2, batch_size=16, lr=0.1, momentum=0.5)
ENDLESS = 1e12
"""A time beside which that of a weight is nothing: the search then ends where the number of weights does."""


def network(conv: Any = nn.Conv2d, linear: Any = nn.Linear) -> nn.Sequential:
    """The layers of one network, of our types or of theirs."""
    layers = conv(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), conv(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
    return nn.Sequential(*layers, nn.Flatten(), linear(64, 32), nn.ReLU(), linear(32, 10)).double()


def theirs() -> Any:
    """The same network as a model of the authors' code."""
    from bases.nn.conv2d import DenseConv2d
    from bases.nn.linear import DenseLinear
    from bases.nn.models.base_model import BaseModel

    class Model(BaseModel):  # type: ignore[misc]
        def collect_layers(self) -> None:
            self.get_param_layers(self.param_layers, self.param_layer_prefixes)
            self.prunable_layers, self.prunable_layer_prefixes = self.param_layers, self.param_layer_prefixes

        def forward(self, images: torch.Tensor) -> Any:
            return self.net(images)

        def to_sparse(self) -> None: ...

    return Model(cross_entropy, {"net": network(DenseConv2d, DenseLinear)})


def layers_of(model: nn.Module) -> list[str]:
    return [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def drawn(model: nn.Module, density: float, generator: torch.Generator) -> tuple[Masks, dict[str, torch.Tensor]]:
    """Masks that keep about that share of each layer, at least four weights, and a score for each weight."""
    masks, scores = {}, {}
    for layer in layers_of(model):
        shape = model.get_parameter(entry(layer)).shape
        order = torch.randperm(shape.numel(), generator=generator)
        masks[layer] = (order < max(4, round(density * shape.numel()))).view(shape)
        scores[layer] = torch.rand(shape, generator=generator, dtype=torch.float64) ** 4
    return masks, scores


def choice(model: Any, masks: Masks, scores: dict[str, torch.Tensor], share: float) -> Masks:
    """What ``ControlModule.adjust`` makes of a model of theirs, every weight as slow as another."""
    from control.algorithm import ControlModule

    layers = len(masks)
    config = SimpleNamespace(TIME_CONSTANT=ENDLESS, COMP_COEFFICIENTS=[1.0] * layers, COMM_COEFFICIENT=0.0)
    for layer, mask in zip(model.prunable_layers, masks.values(), strict=True):
        layer.mask = mask.clone()
    control = ControlModule(model, config)
    for name, parameter in model.named_parameters():
        control.accumulate(name, scores.get(name.removeprefix("net.").removesuffix(".weight"), parameter.new_zeros(1)))
    total, numel = model.calc_num_prunable_params(False)
    with contextlib.redirect_stdout(io.StringIO()):
        control.adjust(share, (total - 0.5) / numel)  # it goes on to one weight more than the density allows
    return dict(zip(masks, (layer.mask for layer in model.prunable_layers), strict=True))


def rule() -> None:
    """Masks after an adjustment: how many of all places differ."""
    differ = places = moved = gone = large = 0
    generator = torch.Generator().manual_seed(0)
    for density in DENSITIES:
        for share in SHARES:
            for _ in range(DRAWS):
                model, here = theirs(), network()
                here.load_state_dict({k.removeprefix("net."): v for k, v in model.state_dict().items()})
                masks, scores = drawn(here, density, generator)
                weights = {layer: here.get_parameter(entry(layer)).detach() for layer in masks}
                ours, official = contested_masks(masks, weights, scores, share), choice(model, masks, scores, share)
                assert sum(kept(ours).values()) == sum(kept(masks).values())
                for layer, mask in masks.items():
                    differ += int((ours[layer] != official[layer]).sum())
                    places += mask.numel()
                    moved += int((official[layer] & ~mask).sum())
                    leaving = mask & ~official[layer]
                    gone += int(leaving.sum())
                    smallest = int(share * int(mask.sum()))
                    limit = weights[layer].abs()[mask].sort().values[smallest]
                    large += int((leaving & (weights[layer].abs() >= limit)).sum())
    runs = len(DENSITIES) * len(SHARES) * DRAWS
    print(f"masks after an adjustment, {runs} networks: {differ} of {places} places differ, {moved} weights came")
    print(f"the authors' code: {large} of the {gone} weights that went are not among the smallest that may")


@contextlib.contextmanager
def official_client(model: Any, masks: Masks, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> Iterator[Any]:
    from bases.fl.simulation.adaptive import AdaptiveClient
    from bases.optim.optimizer import SGD
    from bases.optim.optimizer_wrapper import OptimizerWrapper

    client = AdaptiveClient(model, SimpleNamespace(NUM_LOCAL_UPDATES=0), use_adaptive=True)
    client.device = torch.device("cpu")
    client.model.to("cpu")
    client.load_mask([mask.double() for mask in masks.values()])

    def begin(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        client.config.NUM_LOCAL_UPDATES = len(batches)
        remaining = iter(batches)
        client.train_loader = SimpleNamespace(get_next_batch=lambda: next(remaining))
        optimizer = SGD(client.model.parameters(), lr=TRAINING.lr, momentum=TRAINING.momentum)
        client.optimizer_wrapper = OptimizerWrapper(client.model, optimizer)

    client.begin = begin
    yield client


def client() -> None:
    """Two rounds of one client with the same batches: its weights and its sums of squared gradients."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (70, 3, 8, 8), dtype=torch.uint8, generator=generator)
    data = Examples(images, torch.randint(0, 10, (70,), generator=generator), lambda x, _: x.double() / 255)
    model, here, trainer = theirs(), network(), clients.PruneFL(TRAINING)
    here.load_state_dict({k.removeprefix("net."): v for k, v in model.state_dict().items()})
    masks, _ = drawn(here, 0.3, generator)
    state: dict[str, Record] = {}
    cached = {MASKS: to_record(encode(masks))}
    with official_client(model, masks, []) as other:
        for round in (1, 2):
            config = ConfigRecord({SQUARES_SINCE: 1, SQUARES: round == 2})
            context = TrainingContext(
                round=round,
                config=config,
                cached=cached,
                state=state,
                data=data,
                generator=torch.Generator().manual_seed(round),
            )
            here.load_state_dict(dict(trainer.unpack(pack(masks, here.state_dict()), here, context)))
            trainer.train(here, context)
            again = torch.Generator().manual_seed(round)
            order = [part for _ in range(TRAINING.local_epochs) for part in trainer.batches(len(data), again)]
            other.begin([data.batch(part, again) for part in order])
            _, seen, squares, _ = other.main(round == 2)
    told = to_tensors(context.reply.array_records[SQUARES])
    weights = {k.removeprefix("net."): v for k, v in other.model.named_parameters()}
    print(f"weights after two rounds: {max(far(weights[n], p) for n, p in here.named_parameters()):.1e}")
    gap = max(far(squares[f"net.{entry(layer)}"] / seen, sums) for layer, sums in told.items())
    print(f"squares of the summed gradients of two rounds, relative: {gap:.1e}")
    dense = sum(int((told[layer][~mask] > 0).sum()) for layer, mask in masks.items())
    print(f"of these {dense} belong to weights that are not there")


def far(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / one.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--code", type=Path, required=True)
    sys.path.append(str(parser.parse_args().code))
    torch.manual_seed(0)
    rule()
    client()


if __name__ == "__main__":
    main()
