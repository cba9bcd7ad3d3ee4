"""Seconds in which a cohort is trained, alone and together: ``python benchmarks/vectorized.py --device cuda``.

The clients of ``engine=inline`` and of ``engine=vectorized`` train on the same embedded digits, in turn and over again,
each for the same message; the ratio is formed inside a repetition, and the median quoted. Start-up, the first training
of each (cuDNN chooses its algorithms), aggregation and evaluation are left out. Further words are settings:
``python benchmarks/vectorized.py --device cuda norm=gn strategy=fedwon batch_size=8``.
"""

import argparse
import sys
import time
from pathlib import Path

import pandas as pd
import torch
from flwr.app import ConfigRecord

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fedsim.config.composition import compose
from fedsim.config.settings import settings_of
from fedsim.engines.grid import LocalGrid
from fedsim.messages.arrays import to_record
from fedsim.messages.schema import metrics_of
from fedsim.server.preparation import Prepared, prepare
from fedsim.server.simulation import start_engine

DOMAINS = 6
"""Domains of the embedded digits, whose images the clients of a domain share."""


def prepared(engine: str, options: argparse.Namespace, overrides: list[str]) -> Prepared:
    per_domain = -(-options.clients // DOMAINS)
    words = [
        *(f"engine={engine}", f"device={options.device}", "model=cnn_small"),
        *("split=iid", f"split.num_clients={options.clients}", "dataset.test_per_domain=20"),
        f"dataset.train_per_domain={per_domain * options.images}",
        *([f"engine.clients_at_once={options.at_once}"] if engine == "vectorized" else []),
        *overrides,
    ]
    return prepare(settings_of(compose(words), words))


def seconds(grid: LocalGrid, run: Prepared, round: int, device: torch.device) -> tuple[float, float]:
    """Return the time of one training of the cohort, and the mean of its losses."""
    messages = list(run.strategy.configure_train(round, to_record(run.model.state_dict()), ConfigRecord(), grid))
    started = time.perf_counter()
    replies = list(grid.send_and_receive(messages))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    took = time.perf_counter() - started
    losses = [float(str(metrics_of(reply)["loss"])) for reply in replies]  # raises for a client that has failed
    return took, sum(losses) / len(losses)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--images", type=int, default=64, help="of each client, about")
    parser.add_argument("--at-once", type=int, default=50)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--csv", type=Path, help="where the measurements are written")
    options, overrides = parser.parse_known_args(arguments)
    runs = {engine: prepared(engine, options, overrides) for engine in ("inline", "vectorized")}
    device = runs["inline"].devices[0]
    rows = []
    with start_engine(runs["inline"]) as alone, start_engine(runs["vectorized"]) as together:
        grids = {"inline": alone, "vectorized": together}
        for repetition in range(options.repeat + 1):
            row: dict[str, float] = {"repetition": repetition}
            for engine in list(grids)[:: -1 if repetition % 2 else 1]:
                took, loss = seconds(grids[engine], runs[engine], repetition + 1, device)
                row |= {f"{engine}_seconds": took, f"{engine}_loss": loss}
            if repetition:
                rows.append(row | {"ratio": row["inline_seconds"] / row["vectorized_seconds"]})
    table = pd.DataFrame(rows).assign(device=str(device), clients=options.clients, at_once=options.at_once)
    print(table.to_string(index=False, float_format="%.4g"))
    print(f"engine=vectorized is {table['ratio'].median():.3g} times as fast (median)")
    if options.csv:
        table.to_csv(options.csv, index=False)


if __name__ == "__main__":
    main()
