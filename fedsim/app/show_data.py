"""What the clients hold, without training: ``python -m datasets.show dataset=cifar10 split=[longtail,dirichlet]
out_dir=DIR``.

Takes the words of ``python run.py``. Prints a table of clients and classes; with ``out_dir`` also writes
``federation.csv``, where ``train.CAT`` are the training images of the class CAT, and the pictures that a run stores.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from datasets.build import build_federation
from datasets.federation import Federation
from datasets.shots import SHOT_RULES, SHOTS, long_tailed
from fedsim.config.composition import compose
from fedsim.config.settings import settings_of
from fedsim.core.errors import FileError, UserError
from fedsim.core.files import write_atomically, writing
from fedsim.output.federation_table import FILE, OF_CLASS, clients_table, label_entropy
from fedsim.output.terminal import console, never_fail_to_print, print_whole
from fedsim.report.federation_pictures import NAMED_CLASSES, NAMED_CLIENTS, plot_federation


def main(arguments: Sequence[str] | None = None) -> int:
    overrides = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(overrides):
        print(__doc__)
        return 0
    never_fail_to_print()
    try:
        settings = settings_of(compose(overrides), overrides)
        federation = build_federation(settings)
        table = clients_table(federation)
        print_whole(render(table, federation))
        console().print(summary(federation, settings.shots), soft_wrap=True)
        if settings.out_dir is not None:
            write(federation, table, Path(settings.out_dir), settings.shots)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


def imbalance_factor(counts: npt.NDArray[np.int64]) -> float:
    """Return the smallest class that has images as a share of the largest, from images per class."""
    present = counts[counts > 0]
    return float(present.min() / present.max())


def render(table: pd.DataFrame, federation: Federation) -> Table:
    """All clients and classes, or the spread of the clients where they are too many."""
    shown = table if federation.num_classes <= NAMED_CLASSES else table.iloc[:, :7]
    if len(table) > NAMED_CLIENTS:
        spread = shown.drop(columns=["client", "domain"]).quantile([0, 0.25, 0.5, 0.75, 1])
        spread.insert(0, "of the clients", ["least", "25 %", "median", "75 %", "most"])
        shown = spread
    drawn = Table(box=SIMPLE_HEAD)
    for name in shown.columns:
        drawn.add_column(
            name.removeprefix(OF_CLASS), justify="left" if name in ("domain", "of the clients") else "right"
        )
    for row in shown.itertuples(index=False):
        drawn.add_row(*(f"{value:g}" if isinstance(value, float) else str(value) for value in row))
    return drawn


def summary(federation: Federation, shots: str = "share") -> str:
    counts = federation.label_counts()
    by_class = counts.sum(axis=0)
    tail = ""
    if long_tailed(by_class):
        groups = SHOT_RULES[shots](by_class)
        tail = "".join(f", {groups.count(shot)} class{'es' * (groups.count(shot) != 1)} {shot}" for shot in SHOTS)
    domains = ", ".join(federation.domain_tests)
    left_out = f" (left out: {', '.join(federation.unseen_tests)})" if federation.unseen_tests else ""
    return "\n".join(
        [
            f"{len(counts)} clients, {counts.sum()} training images, domains: {domains}{left_out}",
            f"imbalance factor {imbalance_factor(by_class):.4g} over all clients{tail}",
            f"mean label entropy of a client {label_entropy(counts).mean():.3f} of at most "
            f"{np.log(federation.num_classes):.3f} nats",
        ]
    )


def write(federation: Federation, table: pd.DataFrame, folder: Path, shots: str) -> None:
    """Write ``federation.csv`` and the pictures.

    Raises:
        UserError: If the folder cannot be written.
    """
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / FILE, lambda path: table.to_csv(path, index=False, encoding="utf-8"))
        drawn = plot_federation(federation, folder, shots)
    except FileError as error:
        raise UserError(
            f"out_dir={folder} cannot be written ({error.reason}): choose a directory you may write to."
        ) from error
    print(f"written to {folder}: {FILE}, {', '.join(drawn)}")
