"""FedSR here against the authors' code, on equal tensors: ``python -m results.fedsr_official.compare --code DIR``.

``DIR`` is the folder ``src`` of the authors' repository (ba8d894). Two clients train for three rounds, in float64, with
the same batches and the same draws; each row that is printed is the largest difference.
"""

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from flwr.app import RecordDict
from torch import nn

from clients import FedSR
from datasets.examples import Examples
from fedsim.heads import StochasticHead, stochastic_head, use_stochastic
from fedsim.messages.arrays import to_record
from fedsim.methods.interfaces import TrainingContext
from fedsim.methods.training import LocalTraining

CLASSES, DIMENSIONS, SAMPLES, ROUNDS, STEPS, BATCH = 3, 6, 20, 3, 5, 8
TRAINING = LocalTraining(local_epochs=1, batch_size=BATCH, lr=0.05, momentum=0.9, weight_decay=5e-4)
L2R, CMI = 0.01, 0.001


def body() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2 * DIMENSIONS)
    ).double()


class Order:
    """A loader that hands out the batches of a round, one each time that it is begun, as the authors' steps do."""

    def __init__(self) -> None:
        self.batches: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __iter__(self) -> Any:
        return iter([self.batches.pop(0)])


def official(net: nn.Module, classifier: nn.Module) -> Any:
    """A client of the authors' code with this network in the place of their ResNet."""
    from methods.base import Base
    from methods.FedSR import Model

    def begin(self: Any, args: Any) -> None:
        nn.Module.__init__(self)
        vars(self).update(vars(args))
        self.net, self.cls = net, classifier
        self.model = nn.Sequential(self.net, self.cls)
        self.optim = torch.optim.SGD(self.model.parameters(), lr=args.lr, momentum=0.9, weight_decay=args.weight_decay)

    Base.__init__ = begin
    args = SimpleNamespace(
        z_dim=DIMENSIONS, num_classes=CLASSES, num_samples=SAMPLES, lr=TRAINING.lr, device="cpu",
        weight_decay=TRAINING.weight_decay, L2R_coeff=L2R, CMI_coeff=CMI,
    )  # fmt: skip
    return Model(args).double()


def ours() -> tuple[nn.Sequential, StochasticHead]:
    """The same network: what their ``net`` ends in is the first layer of the head."""
    model = use_stochastic(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, CLASSES)),
        DIMENSIONS,
        SAMPLES,
    ).double()
    head = stochastic_head(model)
    assert isinstance(model, nn.Sequential)
    assert head is not None
    return model, head


PLACES = {f"0.{layer}": str(layer) for layer in range(4)} | {"0.4": "4.distribution", "1": "4.classifier"}
"""Their layers, and ours."""


def translated(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {}
    for name, tensor in state.items():
        layer, _, entry = name.rpartition(".")
        found[f"{PLACES[layer]}.{entry}"] = tensor
    return found


def data(seed: int) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (STEPS * BATCH, 1, 4, 4), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, CLASSES, (STEPS * BATCH,), generator=generator)
    return Examples(images, labels, lambda batch, _: batch.double() / 127.5 - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--code", type=Path, required=True)
    sys.path.insert(0, str(parser.parse_args().code))
    torch.manual_seed(0)
    net, classifier = body(), nn.Linear(DIMENSIONS, CLASSES).double()
    theirs = []
    for _ in range(2):
        pair = body(), nn.Linear(DIMENSIONS, CLASSES).double()
        pair[0].load_state_dict(net.state_dict())
        pair[1].load_state_dict(classifier.state_dict())
        theirs.append(official(*pair))
    mine = [ours() for _ in theirs]
    for model, _ in mine:
        model.load_state_dict(translated(theirs[0].model.state_dict()), strict=False)
    trainer = FedSR(TRAINING, L2R, CMI)
    for round in range(1, ROUNDS + 1):
        for client, (other, (model, _)) in enumerate(zip(theirs, mine, strict=True)):
            images = data(client)
            generator = torch.Generator().manual_seed(10 * round + client)
            order, again = Order(), torch.Generator().manual_seed(10 * round + client)
            order.batches = [images.batch(part, again) for part in trainer.batches(len(images), again)]
            other.optim.state.clear()  # a client of theirs keeps its momentum, one of ours does not
            torch.manual_seed(round)
            other.train_client(order, steps=STEPS)
            torch.manual_seed(round)
            sent = RecordDict({"arrays": to_record({k: v.clone() for k, v in model.state_dict().items()})})
            trainer.train(model, TrainingContext(round=round, data=images, generator=generator, sent=sent))
        states = [other.model.state_dict() for other in theirs]
        mean = {name: sum(state[name] for state in states) / len(states) for name in states[0]}
        for other in theirs:
            other.model.load_state_dict(mean)
        shared = [translated_back(model) for model, _ in mine]
        for model, _ in mine:
            model.load_state_dict(
                {name: sum(each[name] for each in shared) / len(shared) for name in shared[0]}, strict=False
            )
    official_model, here = translated(theirs[0].model.state_dict()), mine[0][0].state_dict()
    print(f"network, representation and classifier after {ROUNDS} rounds: {far(official_model, here):.1e}")
    for client, (other, (_, head)) in enumerate(zip(theirs, mine, strict=True)):
        kept = {"mean": other.r_mu, "deviation": other.r_sigma, "scale": other.C}
        print(f"references of client {client}: {far(kept, dict(head.reference.named_parameters())):.1e}")
    images, _ = data(7).batch(torch.arange(STEPS * BATCH), torch.Generator())
    model, head = mine[0][0].eval(), mine[0][1]
    with torch.no_grad():
        theirs[0].num_samples = 20_000
        head.noise = torch.randn(20_000, 1, DIMENSIONS, dtype=torch.float64)
        gap = (theirs[0].eval()(images).exp() - model(images).exp()).abs().max()
    print(f"probabilities of {len(images)} images, 20,000 draws each: {gap:.4f}")


def translated_back(model: nn.Module) -> dict[str, torch.Tensor]:
    """The entries that travel."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if ".reference." not in name}


def far(one: Any, other: Any) -> float:
    return max(float((one[name].detach() - other[name].detach()).abs().max()) for name in one)


if __name__ == "__main__":
    main()
