"""A federation without images worth looking at, and run directories without a run."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from datasets.federation import Federation, Partition, Source
from fedsim.config import compose
from fedsim.tables import Table

MakeFederation = Callable[..., Federation]
MakeRun = Callable[..., Path]


@pytest.fixture
def make_federation() -> MakeFederation:
    """Client k belongs to domain k modulo ``domains`` and trains on k + 1 images, all but one of them of class 0."""

    def make(clients: int, domains: int = 2) -> Federation:
        partitions, labels, owners, is_test = [], [], [], []
        for client in range(clients):
            first, domain = len(labels), client % domains
            labels += [1] + [0] * client + [2]
            owners += [domain] * (client + 2)
            is_test += [False] * (client + 1) + [True]
            train, test = np.arange(first, first + client + 1), np.array([first + client + 1])
            partitions.append(Partition(client, f"domain{domain}", train, test))
        source = Source(
            images=np.zeros((len(labels), 1, 2, 2), np.uint8),
            labels=np.array(labels),
            domains=np.array(owners),
            is_test=np.array(is_test),
            domain_names=tuple(f"domain{number}" for number in range(domains)),
            num_classes=3,
        )
        return Federation(source, partitions)

    return make


@pytest.fixture
def make_run() -> MakeRun:
    """Writes the files of a run whose clients, one per domain, end with the given accuracies."""

    def make(run_dir: Path, *overrides: str, accuracy: Mapping[str, float], global_accuracy: float = 0.5) -> Path:
        config = compose(overrides)
        run_dir.mkdir(parents=True)
        OmegaConf.save(OmegaConf.create(config), run_dir / "config.yaml")
        mean = sum(accuracy.values()) / len(accuracy)
        rounds, clients = Table(run_dir / "rounds.csv"), Table(run_dir / "clients.csv")
        for number, share in ((0, 0.5), (1, None), (2, 1.0)):  # round 1 was not evaluated
            measured = {"client_accuracy_mean": share * mean, "global_accuracy": global_accuracy} if share else {}
            rounds.append([{"round": number, **measured, "seconds": 0.25}])
            if share:
                clients.append(
                    {"round": number, "client": client, "domain": domain, "split": "test", "accuracy": share * value}
                    for client, (domain, value) in enumerate(accuracy.items())
                )
        final = {
            "round": 2,
            "client_accuracy_mean": mean,
            "global_accuracy": global_accuracy,
            "client_domain_accuracy": dict(accuracy),
            "domain_accuracy": dict.fromkeys(accuracy, global_accuracy),
        }
        summary = {
            "strategy": config["strategy"]["name"],
            "dataset": "digits",
            "rounds": 2,
            "final": final,
            "best": final,
        }
        (run_dir / "summary.json").write_text(json.dumps(summary))
        return run_dir

    return make
