"""Run directories without a run."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from fedsim.config.composition import compose
from fedsim.output.tables import Table

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run() -> MakeRun:
    """Writes the files of a run whose clients, one per domain, end with the given accuracies."""

    def make(
        run_dir: Path, *overrides: str, accuracy: Mapping[str, float], global_accuracy: float = 0.5, **more: float
    ) -> Path:
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
            **more,
        }
        summary = {
            "strategy": config["strategy"]["name"],
            "dataset": "digits",
            "seed": config["seed"],
            "rounds": 2,
            "final": final,
            "best": final,
        }
        (run_dir / "summary.json").write_text(json.dumps(summary))
        return run_dir

    return make
