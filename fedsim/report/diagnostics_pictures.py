"""Pictures of ``diagnostics.csv``: heat maps of layers and rounds, for one run, and a comparison of several runs."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from fedsim.report.plots import lines_of, picture, plain_logarithm
from fedsim.report.style import colour

NATS = LogNorm(0.01, 100)
"""The same scale for all divergences of all runs, so that pictures can be compared."""
SHARE = Normalize(0, 1)
DIVERGENCES = {
    "kl_clients_before": "clients apart,\nbefore the norm",
    "kl_clients_training": "clients apart, behind it\nin training",
    "kl_clients_after": "clients apart, behind it\nat evaluation",
    "kl_training": "the same images in training\nand at evaluation",
}
OTHERS = {
    "mean_shift_after": ("clients' means from their mean,\nin deviations, at evaluation", Normalize(0, 2), "viridis"),
    "dead": ("share of dead channels", SHARE, "viridis"),
    "update_cosine": ("cosine between updates", Normalize(-1, 1), "RdBu_r"),
    "weight_distance": ("clients' weights from their mean,\nrelative", LogNorm(1e-3, 1), "viridis"),
}
COLLAPSE = {
    "nc1": "NC1 within classes",
    "nc2_angles_means": "NC2 angles of means",
    "nc3": "NC3 means and weights",
    "nc4": "NC4 nearest mean",
}


def plot_diagnostics(diagnostics: pd.DataFrame, path: Path) -> None:
    """Write a picture with divergences and neural collapse in the first row, and the other metrics in the second.

    The second row has the mean shift, dead channels, and the updates' cosines and distances.
    """
    rounds = diagnostics["round"].nunique()
    layers = diagnostics["layer"].nunique()
    width, height = max(10.5, min(18, 5 + 0.5 * rounds)), max(4.6, min(14, 2.6 + 0.36 * layers))
    with picture(path, width, height, columns=5, rows=2) as axes:
        top, bottom = axes[:5], axes[5:]
        for place, (metric, title) in zip(top, DIVERGENCES.items(), strict=False):
            drawn = _heat_map(place, diagnostics, metric, title, NATS, "magma")
        _scale(top[3], drawn, "nats, symmetric KL")
        for place, (metric, (title, norm, palette)) in zip(bottom, OTHERS.items(), strict=False):
            _scale(place, _heat_map(place, diagnostics, metric, title, norm, palette), "")
        for place in (*top[1:4], bottom[1], bottom[3]):
            place.set_yticklabels([])
        _lines(top[4], diagnostics, COLLAPSE, "neural collapse\nof the global model")
        bottom[4].axis("off")
        bottom[4].legend(*top[4].get_legend_handles_labels(), fontsize=7, loc="upper center")


def plot_diagnostics_comparison(runs: Mapping[str, pd.DataFrame], path: Path) -> None:
    """Write a picture with a row of divergences for each run, all on one scale."""
    height = sum(0.9 + 0.22 * _sites(frame) for frame in runs.values()) + 0.5
    with picture(path, 11, max(2.6, height), columns=4, rows=len(runs)) as axes:
        for row, (name, frame) in enumerate(runs.items()):
            for column, (metric, title) in enumerate(DIVERGENCES.items()):
                place = axes[4 * row + column]
                drawn = _heat_map(place, frame, metric, title if row == 0 else "", NATS, "magma")
                if column:
                    place.set_yticklabels([])
                if row < len(runs) - 1:
                    place.set_xlabel("")
            axes[4 * row].set_ylabel(lines_of(name), fontweight="bold")
        figure = axes[0].figure
        assert isinstance(figure, Figure)
        figure.colorbar(
            drawn, ax=axes, shrink=0.8, pad=0.01, extend="both", label="nats, symmetric KL", format=plain_logarithm()
        )


def _sites(frame: pd.DataFrame) -> int:
    return int(frame.loc[frame["metric"] == "kl_training", "layer"].nunique())


def _heat_map(
    axes: Axes, diagnostics: pd.DataFrame, metric: str, title: str, norm: Normalize, palette: str
) -> AxesImage:
    """Draw a heat map: layers from top to bottom, rounds from left to right, numbers in the cells if at most 60."""
    mine = diagnostics[diagnostics["metric"] == metric]
    table = mine.pivot(index="layer", columns="round", values="value").reindex(mine["layer"].unique())
    values = table.to_numpy(dtype=float) if len(table) else np.full((1, 1), np.nan)
    axes.grid(False)
    # Zero has no logarithm; it is drawn as the smallest positive number.
    shown = np.where(values == 0, np.finfo(float).tiny, values) if isinstance(norm, LogNorm) else values
    drawn = axes.imshow(shown, aspect="auto", norm=norm, cmap=palette, interpolation="nearest")
    axes.set_title(title, fontsize=8)
    axes.set_xlabel("round", fontsize=8)
    axes.set_yticks(range(len(table)), table.index, fontsize=7)
    step = -(-max(1, table.shape[1]) // 7)
    axes.set_xticks(range(0, table.shape[1], step), table.columns[::step], fontsize=7)
    if values.size <= 60:
        for (row, column), value in np.ndenumerate(values):
            red, green, blue, _ = drawn.cmap(norm(shown[row, column]))
            ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
            axes.text(column, row, _short(value), ha="center", va="center", fontsize=5.5, color=ink)
    return drawn


def _short(value: float) -> str:
    """Return a number in one to three digits, without a leading zero."""
    if not np.isfinite(value):
        return ""
    if value == 0:
        return "0"
    if 0.0005 < abs(value) < 0.0095:
        return f"{value:.0e}".replace("e-0", "e-")
    text = f"{value:.0f}" if abs(value) >= 9.95 else f"{value:.1f}" if abs(value) >= 0.995 else f"{value:.2f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def _scale(axes: Axes, drawn: AxesImage, words: str) -> None:
    figure = axes.figure
    assert isinstance(figure, Figure)
    plain = plain_logarithm() if isinstance(drawn.norm, LogNorm) else None
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, pad=0.02, extend="both", format=plain)
    bar.ax.tick_params(labelsize=6)
    bar.set_label(words, fontsize=7)


def _lines(axes: Axes, diagnostics: pd.DataFrame, metrics: Mapping[str, str], title: str) -> None:
    for number, (metric, words) in enumerate(metrics.items()):
        mine = diagnostics[diagnostics["metric"] == metric]
        axes.plot(mine["round"], mine["value"], color=colour(number), label=words)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(plain_logarithm())
    axes.yaxis.set_minor_formatter(plain_logarithm())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("round", fontsize=8)
    axes.set_title(title, fontsize=8)
    axes.tick_params(labelsize=7)
