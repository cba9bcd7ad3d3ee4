"""FedAvg and FedBN here against the authors' code, on real digits.

``python -m results.fedbn_official.compare --code DIR --data DIGITS``, with a checkout of the authors' repository
(2fa38ad) and the folder of the five sets. The functions with which their ``federated/fed_digits.py`` trains, averages
and tests run as they are, but for float64 where it says float32; their batches are those that a whole run of this
simulator draws. ``rounds.csv`` beside this file gets the accuracies of both, and ``differences.csv`` the largest
difference of any entry of the models after the last round.
"""

import argparse
import copy
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader

import fedsim
from datasets.federation import Federation
from datasets.source import Part
from fedsim.app.run import Run
from fedsim.client.host import ClientHost
from fedsim.config.composition import compose
from fedsim.config.settings import settings_of
from fedsim.core.seeding import torch_generator
from fedsim.output.progress import Reporter
from fedsim.server.preparation import Prepared, prepare
from fedsim.server.simulation import run

DOMAINS = ("mnist", "svhn", "usps", "fonts", "mnist_m")
TESTS = 600
"""Test images of each domain, where it has so many"""
PLACES = dict(
    pair.split()
    for pair in (
        *(
            "conv1 features.0",
            "bn1 features.1",
            "conv2 features.4",
            "bn2 features.5",
            "conv3 features.8",
            "bn3 features.9",
        ),
        *("fc1 features.12", "bn4 features.13", "fc2 features.15", "bn5 features.16", "fc3 head"),
    )
)
"""Their layers, and ours."""
Tensors = Mapping[str, torch.Tensor]
HERE = Path(__file__).parent


@contextmanager
def in_float64() -> Iterator[None]:
    """Let networks and images be float64 inside the block."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.object(torch.Tensor, "float", torch.Tensor.double):
            yield
    finally:
        torch.set_default_dtype(usual)


def prepared(strategy: str, data: Path, rounds: int) -> Prepared:
    """Prepare the run, with the first ``TESTS`` test images of each domain."""
    words = [
        *("experiment=fedbn_digits5", f"dataset.domains=[{','.join(DOMAINS)}]", f"data_dir={data}"),
        *(f"strategy={strategy}", "strategy.weighting=uniform", "norm=bn", "engine=inline", "device=cpu"),
        *(f"rounds={rounds}", "evaluate_every=1", "checkpoint_every=0", "pictures=false", "seed=0"),
    ]
    settings = settings_of(compose(words), words)
    whole = prepare(settings).federation
    partitions = [replace(each, test=whole.indices(each.client, Part.TEST)[:TESTS]) for each in whole.partitions]
    return prepare(settings, Federation(whole.source, partitions))


def authors(code: Path) -> dict[str, Any]:
    """Return the names that their script defines before its main part, where float64 is float32."""
    sys.path.insert(0, str(code))
    script = code / "federated" / "fed_digits.py"
    source = script.read_text().replace("torch.float32", "torch.float64")
    names: dict[str, Any] = {"__name__": "fed_digits", "__file__": str(script)}
    exec(compile(source, str(script), "exec"), names)
    return names


class Theirs:
    """Their server model and the models of their clients, from our initial weights."""

    def __init__(self, code: Path, strategy: str, run: Prepared) -> None:
        self.names, self.prepared = authors(code), run
        self.names["client_num"] = len(DOMAINS)  # which their script has as a global variable
        self.mode = SimpleNamespace(mode=strategy)
        self.server: nn.Module = self.names["DigitModel"]()
        self.server.load_state_dict(renamed(run.model.state_dict(), {ours: their for their, ours in PLACES.items()}))
        self.models = [copy.deepcopy(self.server) for _ in DOMAINS]
        self.trainer = ClientHost(run.settings, run.federation, torch.device("cpu")).trainer

    def round(self, number: int) -> list[float]:
        """Train a round on the batches that our clients draw in it, and return the accuracies of their models."""
        loss, device, federation = nn.CrossEntropyLoss(), torch.device("cpu"), self.prepared.federation
        for client, model in enumerate(self.models):
            examples = federation.examples_of(client, Part.TRAIN)
            generator = torch_generator(self.prepared.settings.seeds.batches, "batches", round=number, client=client)
            batches = [examples.batch(each, generator) for each in self.trainer.batches(len(examples), generator)]
            optimizer = torch.optim.SGD(model.parameters(), lr=self.prepared.settings.lr)
            loader = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]  # of batches that are made
            self.names["train"](model, loader, optimizer, loss, len(DOMAINS), device)
        weights = [1 / len(DOMAINS)] * len(DOMAINS)
        self.server, self.models = self.names["communication"](self.mode, self.server, self.models, weights)
        return [self.names["test"](model, Tests(federation, client), loss, device)[1] for client, model in self.pairs()]

    def pairs(self) -> Iterator[tuple[int, nn.Module]]:
        return enumerate(self.models)


class Tests(list[tuple[torch.Tensor, torch.Tensor]]):
    """A client's test images in one batch, with the ``dataset`` of a loader, whose length their ``test`` asks for."""

    def __init__(self, federation: Federation, client: int) -> None:
        self.dataset = federation.examples_of(client, Part.TEST)
        super().__init__([self.dataset.batch(torch.arange(len(self.dataset)))])


def renamed(state: Tensors, places: Mapping[str, str]) -> dict[str, torch.Tensor]:
    found = {}
    for name, tensor in state.items():
        layer, _, entry = name.rpartition(".")
        found[f"{places[layer]}.{entry}"] = tensor
    return found


def differences(theirs: Theirs, run_dir: Path) -> dict[str, float]:
    """Return the largest difference of the shared entries, and of those that the clients have of their own."""
    trained = fedsim.load(run_dir)
    largest = {"shared": 0.0, "personal": 0.0}
    for client, model in theirs.pairs():
        ours = trained.model(client).network.state_dict()
        for name, tensor in renamed(model.state_dict(), PLACES).items():
            if name.endswith("num_batches_tracked"):  # their FedAvg leaves each client its own
                continue
            kind = "personal" if name in theirs.prepared.strategy.personal else "shared"
            largest[kind] = max(largest[kind], float((tensor - ours[name]).abs().max()))
    return largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--code", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    rows, far = [], []
    for strategy in ("fedavg", "fedbn"):
        with in_float64(), tempfile.TemporaryDirectory() as folder:
            start = prepared(strategy, given.data, given.rounds)
            theirs = Theirs(given.code, strategy, start)
            accuracies = {number: theirs.round(number) for number in range(1, given.rounds + 1)}
            clients = Run.of(run(start, Path(folder), Reporter())).clients
            for row in clients[(clients["round"] > 0) & (clients["split"] == "test")].itertuples():
                official = accuracies[row.round][row.client]
                rows.append((strategy, row.round, row.domain, row.num_examples, official, row.accuracy))
            far += [(strategy, part, each) for part, each in differences(theirs, Path(folder)).items()]
    columns = ["strategy", "round", "domain", "images", "official", "fedsim"]
    table = pd.DataFrame(rows, columns=columns)
    table.to_csv(HERE / "rounds.csv", index=False)
    pd.DataFrame(far, columns=["strategy", "entries", "difference"]).to_csv(HERE / "differences.csv", index=False)
    print(table.to_string(), *far, sep="\n")


if __name__ == "__main__":
    main()
