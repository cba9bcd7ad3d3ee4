"""``plots/classes.png``: the accuracy of each class, and the geometry of the classifiers' rows."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from datasets.shots import SHOTS
from fedsim.report.plots import label, legend_below, percent_axis, picture
from fedsim.report.style import colour

LINES = ("-", "--", ":", "-.")
NAMED_CLASSES = 20
GEOMETRY = {"norm": "length of classifier rows", "nearest": "angle to the nearest row (degrees)"}


def plot_classes(classes: pd.DataFrame, path: Path) -> None:
    """Plot the accuracy per class after the last round, and length and nearest angle of classifier rows over rounds.

    Classes are in the order of their training images, the largest first. Over rounds, a colour is the mean of the many,
    medium or few classes, and a line style is a classifier. Without a long tail there are no such groups to compare,
    and the rows are left out.
    """
    tail = classes["shot"].isin(SHOTS).any()
    layers = [name.removesuffix("_norm") for name in classes.columns if tail and name.endswith("_norm")]
    with picture(path, 4.2 + 3.6 * 2 * bool(layers), 3.8, columns=3 if layers else 1) as (final, *geometry):
        _plot_final(final, classes[classes["round"] == classes["round"].max()])
        for axes, (what, title) in zip(geometry, GEOMETRY.items(), strict=False):
            _plot_over_rounds(axes, classes, layers, what)
            axes.set_title(title, fontsize=9)
        legend_below(final, *geometry)


def _plot_final(axes: Axes, final: pd.DataFrame) -> None:
    ordered = final.sort_values("train_images", ascending=False, kind="stable")
    places = np.arange(len(ordered))
    colours = {shot: colour(number) for number, shot in enumerate(SHOTS)}
    axes.bar(
        places, 100 * ordered["accuracy"], color=[colours.get(shot, colour(0)) for shot in ordered["shot"]], alpha=0.75
    )
    others = [name for name in ordered.columns if name.endswith("_accuracy")]
    for number, name in enumerate(others):
        axes.plot(
            places,
            100 * ordered[name],
            linestyle="none",
            marker="ovs^D"[number % 5],
            markersize=4,
            clip_on=False,
            color="black",
            markerfacecolor="white",
            label=name.removesuffix("_accuracy").replace("_", " "),
        )
    measured = (100 * ordered[name] for name in ("accuracy", *others))
    percent_axis(axes, f"global model, round {ordered['round'].max()}", *measured)
    if len(ordered) <= NAMED_CLASSES:
        axes.set_xticks(places, list(map(label, ordered["class"])), rotation=60, ha="right", fontsize=7)
    else:
        axes.set_xlabel("classes, the largest first")


def _plot_over_rounds(axes: Axes, classes: pd.DataFrame, layers: list[str], what: str) -> None:
    shots = [shot for shot in SHOTS if (classes["shot"] == shot).any()]
    groups = {shot: classes[classes["shot"] == shot] for shot in shots}
    for number, (group, rows) in enumerate(groups.items()):
        for layer, line in zip(layers, LINES, strict=False):
            mean = rows.groupby("round")[f"{layer}_{what}"].mean()
            words = f"{group}, {layer.rpartition('.')[2]}" if len(layers) > 1 else group
            axes.plot(
                mean.index,
                mean,
                marker="o" if len(mean) <= 2 else None,
                color=colour(number),
                linestyle=line,
                label=words,
            )
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
