"""What the first steps with frozen statistics do to a client: ``python frozen_steps.py RUN_DIR --csv FILE``.

The model is the global one of a finished run of FedAvg with BatchNorm. Each client takes ten steps of SGD from it, in
which BatchNorm normalizes by the batch (BatchNorm), by the run's statistics (FixBN), or by statistics of the client's
own training images, frozen likewise.
"""

import argparse
import copy
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import fedsim
from datasets.examples import Examples
from datasets.source import Part
from fedsim.config.composition import load
from fedsim.config.settings import settings_of
from fedsim.server.preparation import prepare

BATCH, OWN, SHARED = "the batch", "the client, frozen", "the federation, frozen"
RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
STEPS, BATCH_SIZE = 10, 32


def norm_layers(network: torch.nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


@torch.no_grad()
def take_statistics(network: torch.nn.Module, images: torch.Tensor) -> None:
    """Give BatchNorm the statistics of images, as the mean over batches."""
    for layer in norm_layers(network):
        layer.reset_running_stats()
        layer.momentum = None
    for batch in images.split(BATCH_SIZE):
        network(batch)


def prepared_network(trained: torch.nn.Module, kind: str, images: torch.Tensor) -> torch.nn.Module:
    network = copy.deepcopy(trained).requires_grad_(True).train()
    if kind == OWN:
        take_statistics(network, images)
    for layer in norm_layers(network):
        layer.train(kind == BATCH)
    return network


def steps(
    network: torch.nn.Module, examples: Examples, order: torch.Tensor, lr: float
) -> Iterator[tuple[float, float]]:
    """Yield loss and length of the gradient of each step; a loss that is not finite is the last."""
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    for chosen in order[: STEPS * BATCH_SIZE].split(BATCH_SIZE):
        images, labels = examples.batch(chosen)
        loss = cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
        yield loss.item(), torch.nn.utils.get_total_norm(gradients).item()
        if not torch.isfinite(loss):
            return
        optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--csv", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    network = fedsim.load(given.run_dir).model().network
    federation = prepare(settings_of(load(given.run_dir))).federation
    rows = []
    for client in federation.clients:
        examples = federation.examples_of(client, Part.TRAIN)
        order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0))
        images = examples.batch(torch.arange(len(examples)))[0]
        for kind in (BATCH, OWN, SHARED):
            for lr in RATES:
                taken = steps(prepared_network(network, kind, images), examples, order, lr)
                for number, (loss, gradient) in enumerate(taken, 1):
                    rows.append((federation.domain_of(client), kind, lr, number, loss, gradient))
    table = pd.DataFrame(rows, columns=["domain", "statistics", "lr", "step", "loss", "gradient"])
    table.to_csv(given.csv, index=False, float_format="%.4g")
    last = table.groupby(["domain", "statistics", "lr"]).loss.last().unstack()
    print(last.map(lambda loss: f"{loss:.3g}").to_string())


if __name__ == "__main__":
    main()
