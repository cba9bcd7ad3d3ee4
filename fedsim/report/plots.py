"""The pictures of a run and of a comparison; every one is a function of the recorded tables."""

import io
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from itertools import islice
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.patches import Patch
from matplotlib.ticker import LogFormatter, MaxNLocator

from fedsim.core.files import write_atomically, writing
from fedsim.report.style import COLOURS, bar, colour, files, kept, line, mark, settings, style

LETTERS_PER_INCH = 14.5
"""Of a title, whose letters have nine points"""
LONGEST = 32
"""The longest name, in letters, for which a picture has room."""
FALLBACKS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "PingFang SC", "Microsoft YaHei", "Noto Sans")
"""Fonts for letters that Matplotlib's own font lacks; those that are installed are used."""


class Picture(Figure):
    """A figure that a notebook shows without pyplot."""

    def _repr_png_(self) -> bytes:
        made = io.BytesIO()
        with matplotlib.rc_context(settings(_fonts())), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a box stands for it
            self.savefig(made, format="png")
        return made.getvalue()


@contextmanager
def picture(path: Path, width: float, height: float, columns: int = 1, rows: int = 1) -> Iterator[list[Axes]]:
    """Yield axes to draw on, row by row, and write the picture when the block ends, or keep it (``kept_in_memory``).

    It is made without pyplot, which has global state and might open a window.

    Args:
        path: The file; a style may add other formats beside it.
        width: Width in inches.
        height: Height in inches; ``legend_below`` may increase it.
        columns: Number of axes side by side.
        rows: Number of axes one below the other.

    Raises:
        FileError: If the picture cannot be written.
    """
    scale = style().scale
    with matplotlib.rc_context(settings(_fonts())):
        figure = Picture(figsize=(scale * width, scale * height), layout="constrained")
        drawn = [figure.add_subplot(rows, columns, number + 1) for number in range(rows * columns)]
        yield drawn
        for axes in drawn:
            letters = max(20, int(LETTERS_PER_INCH * (figure.get_figwidth() / columns - 0.6)))
            if len(title := axes.get_title()) > letters:
                axes.title.set_text(fill(title, letters))
        figures = kept()
        if figures is not None:
            figures[path.stem] = figure
            return
        with writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a box stands for it
            for name in files(path.name):
                write_atomically(path.with_name(name), partial(figure.savefig, format=name.rpartition(".")[2]))


@cache
def _fonts() -> list[str]:
    installed = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in FALLBACKS if name in installed)]


def plot_run(clients: pd.DataFrame, rounds: pd.DataFrame, folder: Path) -> None:
    """Plot accuracy over rounds, and final accuracy per client where there are several, both on the test sets."""
    tests = clients[clients["split"] == "test"]
    plot_accuracy(tests, rounds, folder / "accuracy.png")
    if tests["client"].nunique() > 1:
        plot_clients(tests, folder / "clients.png")


def plot_accuracy(clients: pd.DataFrame, rounds: pd.DataFrame, path: Path) -> None:
    """Plot over rounds the mean and range of the clients and the global model, and beside them each domain.

    With one client there is no range, and with one domain no second plot.
    """
    evaluated = rounds.dropna(subset="client_accuracy_mean").set_index("round")
    by_round = clients.groupby("round")["accuracy"]
    means = clients.groupby(["domain", "round"], sort=False)["accuracy"].mean()
    domains = list(clients["domain"].unique())
    columns = 1 if len(domains) == 1 else 2
    with picture(path, 8.5 if columns > 1 else 5, 3.4, columns=columns) as (overall, *beside):
        marked = mark(len(evaluated))
        mean = 100 * evaluated["client_accuracy_mean"]
        overall.plot(mean.index, mean, marker=marked, color=colour(0), label="client mean")
        shown = [mean]
        if clients["client"].nunique() > 1:
            shown += [100 * by_round.min(), 100 * by_round.max()]
            overall.fill_between(
                shown[1].index,
                shown[1],
                shown[2],
                color=colour(0),
                alpha=0.15,
                linewidth=0,
                label="worst to best client",
            )
        if "global_accuracy" in evaluated:
            shown.append(100 * evaluated["global_accuracy"])
            overall.plot(
                evaluated.index, shown[-1], marker=marked, color=colour(1), linestyle="--", label="global model"
            )
        percent_axis(overall, "all clients" if columns > 1 else f"clients of {label(domains[0])}", *map(risen, shown))
        for axes in beside:
            curves = {domain: 100 * means[domain] for domain in domains}
            for number, (domain, series) in enumerate(curves.items()):
                axes.plot(series.index, series, marker=marked, color=colour(number), label=label(domain))
            percent_axis(axes, "clients of each domain", *map(risen, curves.values()))
        for axes in (overall, *beside):
            _rounds(axes)
            legend_below(axes)


MOST_BARS = 200
"""With more clients than these, each is drawn as a line instead of a bar."""


def plot_clients(clients: pd.DataFrame, path: Path) -> None:
    """Plot each client's accuracy after the last round, coloured by domain."""
    final = clients[clients["round"] == clients["round"].max()]
    domains = {domain: number for number, domain in enumerate(final["domain"].unique())}
    with picture(path, max(4.5, min(14, 1.5 + 0.6 * len(final))), 3.2) as (axes,):
        for domain, number in domains.items():
            mine = final[final["domain"] == domain]
            heights = 100 * mine["accuracy"]
            if len(final) <= MOST_BARS:
                axes.bar(mine["client"], heights, color=colour(number), label=label(domain))
            else:  # one artist: a bar for each of many clients takes milliseconds and is narrower than a line
                axes.vlines(mine["client"], 0, heights, color=colour(number), linewidth=0.5, label=label(domain))
        mean = 100 * final["accuracy"].mean()
        axes.axhline(mean, color="black", linewidth=1, linestyle=":")
        place = axes.get_yaxis_transform()  # x as a share of the axes, y as data
        axes.text(1.01, mean, f"mean\n{mean:.1f}", transform=place, fontsize=7, va="center", ha="left")
        percent_axis(axes, f"test accuracy of each client, round {final['round'].max()}", 100 * final["accuracy"])
        axes.set_xlabel("client")
        if len(final) <= 30:
            axes.set_xticks(list(final["client"]))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend_below(axes)


def plot_comparison_by_domain(table: pd.DataFrame, path: Path) -> None:
    """Plot grouped bars with one standard deviation: ``table`` has label, domain, mean and std (in percent)."""
    labels, domains = list(table["label"].unique()), list(table["domain"].unique())
    width = 0.8 / len(labels)
    with picture(path, max(6, 1.2 * len(domains) + 1.5), 3.4) as (axes,):
        for number, name in enumerate(labels):
            mine = table[table["label"] == name].set_index("domain").reindex(domains)
            places = np.arange(len(domains)) + (number - (len(labels) - 1) / 2) * width
            axes.bar(
                places,
                mine["mean"],
                width,
                yerr=mine["std"].fillna(0),
                label=lines_of(name),
                error_kw={"linewidth": 0.8},
                **bar(number),
            )
        long = max(map(len, domains)) > 12
        axes.set_xticks(
            range(len(domains)), map(label, domains), rotation=30 if long else 0, ha="right" if long else "center"
        )
        deviation = table["std"].fillna(0)
        ends = (table["mean"] - deviation, table["mean"] + deviation)
        percent_axis(axes, "client accuracy after the last round, mean and standard deviation over seeds", *ends)
        legend_below(axes)


def plot_comparison_over_rounds(curves: Mapping[str, pd.DataFrame], path: Path) -> None:
    """Plot mean client accuracy over rounds, with a band of one standard deviation over seeds.

    The frames of ``curves`` are rounds × runs, with accuracies from 0 to 1.
    """
    shown: list[pd.Series] = []
    with picture(path, 6, 3.4) as (axes,):
        for number, (name, frame) in enumerate(curves.items()):
            mean, std = 100 * frame.mean(axis=1), 100 * frame.std(axis=1).fillna(0)
            look = line(number, len(mean))
            axes.plot(frame.index, mean, label=lines_of(name), **look)
            shown += [mean - std, mean + std]
            axes.fill_between(frame.index, mean - std, mean + std, color=look["color"], alpha=0.15, linewidth=0)
        percent_axis(axes, "mean client accuracy, band: one standard deviation over seeds", *map(risen, shown))
        _rounds(axes)
        legend_below(axes)


def plot_tuning(table: pd.DataFrame, key: str, chosen: Mapping[str, Any], path: Path) -> None:
    """Plot validation accuracy against a tuned setting: mean and standard deviation over seeds, the chosen one ringed.

    Args:
        table: The columns method, seed, validation (0 to 1), failed and the tuned settings.
        key: The setting on the x axis. Where several combinations of settings have the same value, the best is drawn.
            Values that are not numbers are at the right end.
        chosen: The chosen value of ``key`` by method.
        path: The file.
    """
    values = sorted(
        table[key].unique(),
        key=lambda value: (not isinstance(value, int | float), value if isinstance(value, int | float) else str(value)),
    )
    places = {value: place for place, value in enumerate(values)}
    tuned = [name for name in table.columns if name not in ("method", "seed", "rounds", "validation", "failed", "run")]
    with picture(path, 6, 3.6) as (axes,):
        for number, (method, rows) in enumerate(table.groupby("method", sort=False)):
            grouped = rows.groupby(tuned, dropna=False)
            points = grouped.agg(mean=("validation", "mean"), std=("validation", "std"), failed=("failed", "any"))
            points = points.reset_index()
            best = points.loc[points.groupby(key, dropna=False)["mean"].idxmax()]
            best = best.assign(place=best[key].map(places)).sort_values("place")
            done, failed = best[~best["failed"]], best[best["failed"]]
            look = line(number, len(done))
            axes.errorbar(
                done["place"],
                100 * done["mean"],
                yerr=100 * done["std"].fillna(0),
                elinewidth=0.8,
                label=lines_of(str(method)),
                **{**look, "marker": "o", "markersize": 4},
            )
            at_the_bottom = axes.get_xaxis_transform()
            axes.plot(failed["place"], [0.0] * len(failed), "x", color=look["color"], transform=at_the_bottom)
            mine = best[best["place"] == places[chosen[str(method)]]]
            axes.plot(
                mine["place"], 100 * mine["mean"], "o", markersize=10, markerfacecolor="none", color=look["color"]
            )
        axes.set_xticks(range(len(values)), [str(value) for value in values])
        axes.set_xlabel(key)
        axes.set_ylabel("validation accuracy (%)")
        crosses = "; ×: a run failed" if table["failed"].any() else ""
        axes.set_title(f"mean and standard deviation over seeds, the chosen one ringed{crosses}", fontsize=9)
        legend_below(axes)


def legend_below(*axes: Axes) -> None:
    """Add a legend below these axes, where it hides nothing, in as many rows as needed; the picture becomes taller."""
    figure = axes[0].figure
    grid = axes[0].get_gridspec()
    assert isinstance(figure, Figure)
    assert grid is not None
    entries: dict[str, Artist] = {}
    for each in axes:
        entries |= {words: handle for handle, words in zip(*each.get_legend_handles_labels(), strict=True)}
    if len(entries) > COLOURS:  # colours repeat then
        more = len(entries) - COLOURS + 1
        entries = {**dict(islice(entries.items(), COLOURS - 1)), f"and {more} more": Patch(alpha=0)}
    if not entries:
        return
    whole = grid.ncols == 1 or len(axes) > 1
    letters = max(len(part) for words in entries for part in words.split("\n"))
    inches_per_label = 0.6 + 0.065 * letters  # the handle, and eight-point letters
    columns = max(1, int(figure.get_figwidth() / (1 if whole else grid.ncols) / inches_per_label))
    heights = np.array_split([words.count("\n") + 1 for words in entries], columns)
    figure.set_figheight(max(figure.get_figheight(), 2.6 * grid.nrows + 0.4 + 0.17 * max(map(sum, heights))))
    shown = {"handles": list(entries.values()), "labels": list(entries), "ncols": columns}
    if whole:
        figure.legend(**shown, fontsize=8, loc="outside lower center")
    else:
        axes[0].legend(**shown, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2))


def label(name: str) -> str:
    """Return a name for a legend or tick: the middle of a long one is cut out.

    A name that begins with ``_`` is prefixed with an invisible character, since Matplotlib would leave it out.
    """
    short = name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}\N{HORIZONTAL ELLIPSIS}{name[-LONGEST // 2 :]}"
    return f"\N{WORD JOINER}{short}" if short.startswith("_") else short


def lines_of(name: str) -> str:
    """Return the label of a row of a comparison for a legend: whole, in lines with room for its settings."""
    parts = fill(name, LONGEST, break_long_words=False, break_on_hyphens=False).split("\n")
    return "\n".join(map(label, parts))


def plain_logarithm() -> "PlainLog":
    """Return a formatter for the ticks of a logarithmic axis: 1000 and 0.001 instead of powers."""
    return PlainLog(minor_thresholds=(1, 0.4))


class PlainLog(LogFormatter):
    """Formats ticks without mathematical text, which is switched off in pictures."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def risen(curve: pd.Series) -> pd.Series:
    """Return what an axis must show of a curve over rounds: its highest value, and all values after its rise.

    The rise is what has been evaluated in the first fifth of the rounds. With it, ten methods that differ by a few
    points are one line.
    """
    later = curve.index >= curve.index.max() / 5
    shown: pd.Series = curve.loc[later | (curve == curve.max())]
    return shown


def limits(values: Iterable[float]) -> tuple[float, float]:
    """Return the limits of an axis of accuracies in percent such that the differences between them are visible.

    The axis starts at zero where the smallest value is near it. Its limits are rounded to steps of 2, 5, 10 or 20,
    depending on the range of the values.
    """
    found = np.array([value for value in values if np.isfinite(value)])
    if not len(found):
        return 0.0, 100.0
    low, high = float(found.min()), float(found.max())
    span = max(high - low, 10.0)
    step = next(step for step in (2, 5, 10, 20) if step >= span / 5 or step == 20)
    bottom = step * np.floor((low - 0.2 * span) / step)
    top = step * np.ceil((high + 0.1 * span) / step)
    return (0.0 if low < 0.4 * high or bottom <= 10 else float(bottom)), min(100.0, float(top))


def _rounds(axes: Axes) -> None:
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def percent_axis(axes: Axes, title: str, *shown: Iterable[float]) -> None:
    """Set limits, label and title of an axis of accuracies in percent; the label has the lower limit if not zero."""
    bottom, top = limits(value for values in shown for value in values)
    axes.set_ylim(bottom, top)
    axes.set_ylabel(f"accuracy (%), axis from {bottom:g}" if bottom else "accuracy (%)")
    axes.set_title(title, fontsize=9)
