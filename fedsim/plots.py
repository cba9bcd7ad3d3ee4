"""The pictures of a run and of a comparison; every one is a function of the recorded tables."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedsim.files import write_atomically, writing

# Okabe & Ito's colours, which people with any colour vision can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


def colour(number: int) -> str:
    """A colour for the n-th line or bar; beyond the eighth from a longer, less distinct list."""
    if number < len(_COLOURS):
        return _COLOURS[number]
    return to_hex(matplotlib.colormaps["tab20"]((number - len(_COLOURS)) % 20))


STYLE: dict[Any, Any] = {
    "figure.dpi": 130,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}


@contextmanager
def picture(path: Path, width: float, height: float, columns: int = 1, rows: int = 1) -> Iterator[list[Axes]]:
    """Axes to draw on, row by row; the picture is written when the block ends.

    Made without pyplot, which would keep state and might open a window.

    Raises: ``FileError`` if it cannot be written.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield [figure.add_subplot(rows, columns, number + 1) for number in range(rows * columns)]
        with writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda temporary: figure.savefig(temporary, format=path.suffix.removeprefix(".")))


def plot_run(clients: pd.DataFrame, rounds: pd.DataFrame, folder: Path) -> None:
    """Accuracy over rounds, and final accuracy per client, both on the test sets."""
    tests = clients[clients["split"] == "test"]
    plot_accuracy(tests, rounds, folder / "accuracy.png")
    plot_clients(tests, folder / "clients.png")


def plot_accuracy(clients: pd.DataFrame, rounds: pd.DataFrame, path: Path) -> None:
    """The mean over clients with the range of the clients, the global model, and beside them each domain."""
    evaluated = rounds.dropna(subset="client_accuracy_mean")
    by_round = clients.groupby("round")["accuracy"]
    with picture(path, 8.5, 3.4, columns=2) as (overall, domains):
        overall.plot(evaluated["round"], 100 * evaluated["client_accuracy_mean"], color=colour(0), label="client mean")
        overall.fill_between(
            by_round.min().index,
            100 * by_round.min(),
            100 * by_round.max(),
            color=colour(0),
            alpha=0.15,
            linewidth=0,
            label="worst to best client",
        )
        if "global_accuracy" in evaluated:
            global_accuracy = 100 * evaluated["global_accuracy"]
            overall.plot(evaluated["round"], global_accuracy, color=colour(1), linestyle="--", label="global model")
        _percent(overall, "all clients")
        means = clients.groupby(["domain", "round"], sort=False)["accuracy"].mean()
        for number, domain in enumerate(clients["domain"].unique()):
            series = means[domain]
            domains.plot(series.index, 100 * series, color=colour(number), label=domain)
        _percent(domains, "clients of each domain")
        for axes in (overall, domains):
            _rounds(axes)
            axes.legend(fontsize=7, loc="lower right")


def plot_clients(clients: pd.DataFrame, path: Path) -> None:
    """Each client's accuracy after the last round, coloured by domain."""
    final = clients[clients["round"] == clients["round"].max()]
    domains = {domain: number for number, domain in enumerate(final["domain"].unique())}
    with picture(path, max(4.5, min(14, 1.5 + 0.6 * len(final))), 3.2) as (axes,):
        for domain, number in domains.items():
            mine = final[final["domain"] == domain]
            axes.bar(mine["client"], 100 * mine["accuracy"], color=colour(number), label=domain)
        mean = 100 * final["accuracy"].mean()
        axes.axhline(mean, color="black", linewidth=1, linestyle=":")
        place = axes.get_yaxis_transform()  # x as a share of the axes, y as data
        axes.text(1, mean, f"mean {mean:.1f}", transform=place, fontsize=7, va="bottom", ha="right")
        _percent(axes, f"test accuracy of each client, round {final['round'].max()}")
        axes.set_xlabel("client")
        if len(final) <= 30:
            axes.set_xticks(list(final["client"]))
        legend_below(axes)


def plot_comparison_by_domain(table: pd.DataFrame, path: Path) -> None:
    """Grouped bars with one standard deviation: ``table`` has label, domain, mean and std (in percent)."""
    labels, domains = list(table["label"].unique()), list(table["domain"].unique())
    width = 0.8 / len(labels)
    with picture(path, max(6, 1.2 * len(domains) + 1.5), 3.4) as (axes,):
        for number, label in enumerate(labels):
            mine = table[table["label"] == label].set_index("domain").reindex(domains)
            places = np.arange(len(domains)) + (number - (len(labels) - 1) / 2) * width
            axes.bar(
                places,
                mine["mean"],
                width,
                yerr=mine["std"].fillna(0),
                color=colour(number),
                label=label,
                error_kw={"linewidth": 0.8},
            )
        axes.set_xticks(range(len(domains)), domains)
        _percent(axes, "client accuracy after the last round, mean and standard deviation over seeds")
        legend_below(axes)


def plot_comparison_over_rounds(curves: Mapping[str, pd.DataFrame], path: Path) -> None:
    """Mean client accuracy over rounds with a band of one standard deviation over seeds; frames are rounds × runs."""
    with picture(path, 6, 3.4) as (axes,):
        for number, (label, frame) in enumerate(curves.items()):
            mean, std = 100 * frame.mean(axis=1), 100 * frame.std(axis=1).fillna(0)
            axes.plot(frame.index, mean, color=colour(number), label=label)
            axes.fill_between(frame.index, mean - std, mean + std, color=colour(number), alpha=0.15, linewidth=0)
        _percent(axes, "mean client accuracy, band: one standard deviation over seeds")
        _rounds(axes)
        axes.legend(fontsize=8, loc="lower right")


def legend_below(axes: Axes) -> None:
    """Outside the axes, in as many rows as the labels need."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    handles, labels = axes.get_legend_handles_labels()
    inches_per_label = 0.6 + 0.065 * max(map(len, labels))  # the handle, and eight-point letters
    columns = max(1, int(figure.get_figwidth() / inches_per_label))
    figure.legend(handles, labels, fontsize=8, ncols=columns, loc="outside lower center")


def _rounds(axes: Axes) -> None:
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _percent(axes: Axes, title: str) -> None:
    axes.set_ylim(0, 100)
    axes.set_ylabel("accuracy (%)")
    axes.set_title(title, fontsize=9)
