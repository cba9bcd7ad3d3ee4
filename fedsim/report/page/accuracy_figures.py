"""The figures of accuracies, which every run has: over rounds, by client and by domain, and what they took."""

from collections.abc import Mapping, Sequence
from math import ceil

import altair as alt
import pandas as pd

from fedsim.report.page.figure import Figure
from fedsim.report.page.frames import BEST, MEGABYTES, SECONDS, WORST
from fedsim.report.page.parts import (
    LEAST_ROW,
    MANY,
    PERCENT,
    WHOLE,
    chart_of,
    choice,
    colour_of,
    heat_map,
    lines,
    mean_over_seeds,
    names_axis,
    row_height,
)
from fedsim.report.page.thinning import Bins

CURVES, DOMAINS, MAPS, LAST = "curves", "domains", "maps", "last"
ONE_METHOD = "datum.method == method"
FEW = 50
"""Rounds whose points stand apart on a line"""


def convergence(heads: Mapping[str, str], methods: Sequence[str]) -> Figure:
    """Return accuracy over rounds of all methods, mean and standard deviation over seeds."""
    base = (
        chart_of(CURVES)
        .add_params(choice("what", "show", heads))
        .transform_calculate(value="datum[what]")
        .transform_filter("isValid(datum.value)")
    )
    drawn = lines(mean_over_seeds(base, "method", "round"), "method", methods)
    return Figure("convergence", "Accuracy over rounds, mean and standard deviation over seeds", drawn, CURVES)


def spread(rounds: int, methods: Sequence[str]) -> Figure:
    """Return the band from the worst to the best client of one method, with the mean."""
    base = (
        chart_of(CURVES)
        .add_params(choice("method", "method", methods))
        .transform_filter(ONE_METHOD)
        .transform_aggregate(
            mean="mean(client_accuracy_mean)", low=f"mean({WORST})", high=f"mean({BEST})", groupby=["method", "round"]
        )
    )
    x = alt.X("round:Q", axis=alt.Axis(labelExpr=WHOLE), scale=alt.Scale(nice=False))
    colour = alt.Color("method:N", scale=alt.Scale(domain=list(methods)), legend=None)
    y = alt.Y("low:Q", title="accuracy", axis=alt.Axis(format="~%"))
    told = [
        alt.Tooltip("round:Q"),
        alt.Tooltip("low:Q", title="worst client", format=PERCENT),
        alt.Tooltip("mean:Q", title="mean", format=PERCENT),
        alt.Tooltip("high:Q", title="best client", format=PERCENT),
    ]
    band = base.mark_area(opacity=0.25).encode(x, y, alt.Y2("high:Q"), colour, tooltip=told)
    line = base.mark_line(point={"size": 30} if rounds <= FEW else False).encode(
        x, alt.Y("mean:Q"), colour, tooltip=told
    )
    return Figure("spread", "From the worst to the best client", alt.layer(band, line), CURVES)


def domain_lines(table: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Return accuracy over rounds of each domain, for one method."""
    whose, domains = list(table["whose"].unique()), list(table["domain"].unique())
    base = (
        chart_of(DOMAINS)
        .add_params(choice("method", "method", methods), choice("whose", "show", whose))
        .transform_filter(ONE_METHOD)
        .transform_filter("datum.whose == whose")
    )
    drawn = lines(mean_over_seeds(base, "domain", "round"), "domain", domains)
    return Figure("domains", "Accuracy of each domain over rounds", drawn, DOMAINS)


def client_heat_map(cells: pd.DataFrame, bins: Bins, methods: Sequence[str], clients: int) -> Figure:
    """Return the accuracy of each client in each round, for one method."""
    base = chart_of(MAPS).add_params(choice("method", "method", methods)).transform_filter(ONE_METHOD)
    axis = alt.Axis(labelOverlap=True, ticks=False)
    told = [
        alt.Tooltip("client_bin:N", title="client" if bins.rows == 1 else "clients"),
        alt.Tooltip("round_bin:N", title="round" if bins.columns == 1 else "rounds"),
        alt.Tooltip("value:Q", title="accuracy", format=PERCENT),
    ]
    row = alt.Y("client:O", axis=axis, scale=alt.Scale(padding=0))
    column = alt.X("round:O", axis=alt.Axis(labelOverlap=True, ticks=False, labelAngle=0), scale=alt.Scale(padding=0))
    span = [float(cells["value"].min()), float(cells["value"].max())]  # one for all methods, so that they compare
    drawn = heat_map(base, row, column, "accuracy", told, form="~%", domain=span)
    height = max(120, min(480, 22 * ceil(clients / bins.rows)))
    title = "Accuracy of each client in each round"
    return Figure("client_rounds", title, drawn.properties(height=height), MAPS, canvas=True)


def last_round(table: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Return a point for each client's accuracy in the last round, and the mean of each row as a stroke."""
    domains = list(table["domain"].unique())
    several = len(methods) > 1
    rows, names = ("method", methods) if several else ("domain", domains)
    base = chart_of(LAST).transform_calculate(place="(datum.client * 0.6180339887) % 1")
    y = alt.Y(f"{rows}:N", sort=list(names), title=None, axis=names_axis() if several else alt.Axis(labelLimit=130))
    x = alt.X("accuracy:Q", axis=alt.Axis(format="~%"), scale=alt.Scale(zero=False, nice=True))
    told = [
        alt.Tooltip("client:Q"),
        alt.Tooltip("domain:N"),
        *([alt.Tooltip("method:N")] if several else []),
        alt.Tooltip("accuracy:Q", format=PERCENT),
    ]
    picked = alt.selection_point(name="picked", fields=["domain"], bind="legend", toggle="true")
    points = base.mark_circle(size=45 if len(table) <= MANY else 14).encode(
        x,
        y,
        colour_of("domain", domains),
        yOffset=alt.YOffset("place:Q", scale=alt.Scale(domain=[-0.2, 1.2])),
        tooltip=told,
        opacity=alt.when(picked).then(alt.value(0.75)).otherwise(alt.value(0.06)),
    )
    means = (
        chart_of(LAST)
        .mark_tick(thickness=3, size=26)
        .encode(
            alt.X("mean(accuracy):Q", title="accuracy"),
            y,
            tooltip=[alt.Tooltip("mean(accuracy):Q", title="mean", format=PERCENT)],
        )
    )
    height = len(names) * (row_height(names) if several else LEAST_ROW)
    drawn = alt.layer(means, points.add_params(picked)).properties(height=height)
    return Figure("last_round", "Accuracy of each client after the last round", drawn, LAST, canvas=len(table) > MANY)


def target(table: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Return what each method takes until its clients' mean accuracy is as high as the reader sets."""
    reached = table.groupby("run")["client_accuracy_mean"].max()
    top = min(100, ceil(100 * reached.max()))
    at_first = int(90 * reached.min())
    units = {MEGABYTES: "MB to and from all clients", SECONDS: "seconds of this machine", "round": "rounds"}
    known = {name: words for name, words in units.items() if name == "round" or table[name].max() > 0}
    slider = alt.param(
        name="target", value=at_first, bind=alt.binding_range(min=0, max=top, step=1, name="target accuracy (%): ")
    )
    base = (
        chart_of(CURVES)
        .add_params(slider, choice("unit", "show", known))
        .transform_calculate(
            cost="100 * datum.client_accuracy_mean >= target ? datum[unit] : null",
            never="100 * datum.client_accuracy_mean >= target ? 0 : 1",
        )
        .transform_aggregate(cost="min(cost)", never="min(never)", groupby=["method", "run"])
        .transform_aggregate(
            mean="mean(cost)", std="stdev(cost)", runs="count()", never="sum(never)", groupby=["method"]
        )
        .transform_calculate(
            reached="(datum.runs - datum.never) + ' of ' + datum.runs",
            words="datum.runs == datum.never ? 'not reached' : format(datum.mean, ',.4~r') + "
            "(datum.runs - datum.never > 1 ? ' ± ' + format(datum.std, ',.3~r') : '') + "
            "(datum.never > 0 ? ', ' + datum.never + ' of ' + datum.runs + ' never' : '')",
        )
    )
    y = alt.Y("method:N", sort=list(methods), title=None, axis=names_axis())
    told = [alt.Tooltip("method:N"), alt.Tooltip("words:N", title="takes"), alt.Tooltip("reached:N", title="runs")]
    colour = alt.Color("method:N", scale=alt.Scale(domain=list(methods)), legend=None)
    bars = base.mark_bar(height={"band": 0.35}, yOffset=8).encode(
        alt.X("mean:Q", title=None, scale=alt.Scale(domainMin=0)), y, colour, tooltip=told
    )
    text = base.mark_text(align="left", baseline="bottom", dx=2, dy=-2).encode(
        x=alt.value(0), y=y, text="words:N", tooltip=told
    )
    drawn = alt.layer(bars, text).properties(height=len(methods) * row_height(methods))
    return Figure("target", "What a target accuracy takes", drawn, CURVES)
