"""The figures of what only some runs have: labels, classes, costs, diagnostics, predictors, faults, publications."""

from collections.abc import Mapping, Sequence
from math import ceil

import altair as alt
import pandas as pd

from datasets.shots import SHOTS
from fedsim.report.diagnostics_pictures import COLLAPSE, DIVERGENCES, OTHERS
from fedsim.report.page.accuracy_figures import ONE_METHOD
from fedsim.report.page.figure import Figure
from fedsim.report.page.parts import (
    MANY,
    PERCENT,
    PLAINLY,
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

LABELS, SHOT_CURVES, CLASSES, RECORDED, COST = "labels", "shots", "classes", "recorded", "costs"
DIAGNOSTICS, PREDICTORS, FAULTS, PUBLISHED = "diagnostics", "predictors", "faults", "published"
WORDS = {
    **COLLAPSE,
    **{name: words.replace("\n", " ") for name, words in DIVERGENCES.items()},
    **{name: words.replace("\n", " ") for name, (words, _, _) in OTHERS.items()},
}
"""What the pictures call the metrics of ``diagnostics.csv``"""
SHORT = 3
"""Letters of a class's name that has room below its points"""
FEW = 10
"""Rounds of an axis that has room for each of them"""
MOST_ASIDE = 6
"""Methods whose points stand side by side; more would not be told apart"""


def having(table: pd.DataFrame, methods: Sequence[str]) -> list[str]:
    """Return the methods that a table has rows of."""
    there = set(table["method"])
    return [method for method in methods if method in there]


def class_axis(classes: Sequence[str]) -> alt.Axis:
    """Return an axis with the names of classes, oblique where they are long."""
    return alt.Axis(labelLimit=90, labelAngle=0 if max(map(len, classes)) <= SHORT else -40)


def label_heat_map(table: pd.DataFrame, bins: Bins) -> Figure:
    """Return the training images of each client and class."""
    holders, classes = list(table["held_by"].unique()), list(table["class"].unique())
    base = (
        chart_of(LABELS)
        .add_params(choice("holder", "clients of", holders))
        .transform_filter("datum.held_by == holder")
        .transform_filter("datum.value > 0")
    )
    told = [
        alt.Tooltip("client_bin:N", title="client" if bins.rows == 1 else "clients"),
        alt.Tooltip("class_bin:N", title="class" if bins.columns == 1 else "classes"),
        alt.Tooltip("value:Q", title="training images", format=",.4~r"),
    ]
    row = alt.Y("client:O", axis=alt.Axis(labelOverlap=True, ticks=False), scale=alt.Scale(padding=0))
    column = alt.X(
        "class:O",
        sort=classes,
        scale=alt.Scale(padding=0),
        axis=class_axis(classes),
    )
    drawn = heat_map(base, row, column, "training images", told, type="sqrt")
    height = max(120, min(480, 22 * table["client"].nunique()))
    return Figure("labels", "Training images of each client and class", drawn.properties(height=height), LABELS, True)


def shot_lines(table: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Return the global model's accuracy on classes with many, medium and few training images, over rounds."""
    base = (
        chart_of(SHOT_CURVES)
        .add_params(choice("method", "method", having(table, methods)))
        .add_params(choice("predictor", "predictor", list(table["predictor"].unique())))
        .transform_filter(ONE_METHOD)
        .transform_filter("datum.predictor == predictor")
    )
    shots = [shot for shot in SHOTS if (table["shot"] == shot).any()]
    drawn = lines(mean_over_seeds(base, "shot", "round"), "shot", shots)
    return Figure("shots", "Classes with many, medium and few training images", drawn, SHOT_CURVES)


def class_points(table: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Return the accuracy of each class after the last round, the class with most training images first."""
    base = (
        chart_of(CLASSES)
        .add_params(choice("predictor", "predictor", list(table["predictor"].unique())))
        .transform_filter("datum.predictor == predictor")
    )
    order = list(table.sort_values("rank", kind="stable")["class"].unique())
    told = ["class:N", "method:N", "train_images:Q", *(["shot:N"] if (table["shot"] != "").any() else [])]
    picked = alt.selection_point(name="picked", fields=["method"], bind="legend", toggle="true")
    aside = alt.XOffset("method:N", sort=list(methods)) if 1 < len(methods) <= MOST_ASIDE else alt.Undefined
    drawn = base.mark_point(filled=True, size=60).encode(
        alt.X("class:N", sort=order, title="class", axis=class_axis(order)),
        alt.Y("value:Q", title="accuracy", axis=alt.Axis(format="~%")),
        colour_of("method", methods),
        xOffset=aside,
        tooltip=[*told, alt.Tooltip("value:Q", title="accuracy", format=PERCENT)],
        opacity=alt.when(picked).then(alt.value(0.8)).otherwise(alt.value(0.06)),
    )
    return Figure("classes", "Accuracy of each class after the last round", drawn.add_params(picked), CLASSES)


def recorded_lines(columns: Sequence[str], methods: Sequence[str]) -> Figure:
    """Return any other number of ``rounds.csv`` over rounds."""
    base = (
        chart_of(RECORDED)
        .add_params(choice("column", "show", {name: name.replace("_", " ") for name in columns}))
        .transform_filter("datum.column == column")
    )
    form = ".4~r"
    drawn = lines(mean_over_seeds(base, "method", "round", form=form), "method", methods, title="value", form="")
    return Figure("recorded", "Costs, losses and what the method records, over rounds", drawn, RECORDED)


def cost_points(table: pd.DataFrame, words: Mapping[str, str], methods: Sequence[str]) -> Figure:
    """Return accuracy against cost, a point for each run."""
    known = {name: told for name, told in words.items() if name in table and table[name].notna().any()}
    base = chart_of(COST).add_params(choice("unit", "cost", known)).transform_calculate(cost="datum[unit]")
    drawn = base.mark_point(filled=True, size=80, opacity=0.8).encode(
        alt.X("cost:Q", title=None, axis=alt.Axis(labelExpr=PLAINLY), scale=alt.Scale(zero=False, padding=20)),
        alt.Y("accuracy:Q", axis=alt.Axis(format="~%"), scale=alt.Scale(zero=False, padding=15)),
        colour_of("method", methods),
        tooltip=[
            "method:N",
            "seed:Q",
            alt.Tooltip("cost:Q", format=",.4~r"),
            alt.Tooltip("accuracy:Q", format=PERCENT),
        ],
    )
    return Figure("costs", "Mean accuracy of the clients after the last round, against cost", drawn, COST)


def diagnostics_heat_map(table: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Return what normalization does in each layer and round, one metric at a time."""
    metrics = list(table["metric"].unique())
    base = (
        chart_of(DIAGNOSTICS)
        .add_params(choice("metric", "show", {name: WORDS.get(name, name.replace("_", " ")) for name in metrics}))
        .add_params(choice("method", "method", having(table, methods)))
        .transform_filter(ONE_METHOD)
        .transform_filter("datum.metric == metric")
    )
    height = max(80, 24 * int(table.groupby("metric")["layer"].nunique().max()))
    told = ["layer:N", "round:Q", alt.Tooltip("value:Q", format=".4~r")]
    row = alt.Y(
        "layer:N",
        sort=list(table["layer"].unique()),
        title=None,
        axis=alt.Axis(labelLimit=110),
        scale=alt.Scale(padding=0),
    )
    column = alt.X("round:O", axis=alt.Axis(labelOverlap=True, ticks=False, labelAngle=0), scale=alt.Scale(padding=0))
    drawn = heat_map(base, row, column, "value", told, form=".3~r")
    return Figure(
        "diagnostics", "Diagnostics of normalization", drawn.properties(height=height), DIAGNOSTICS, len(table) > MANY
    )


def predictor_bars(table: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Return the accuracy with each predictor after the last round, mean and standard deviation over seeds."""
    predictors = list(table["predictor"].unique())
    base = (
        chart_of(PREDICTORS)
        .add_params(choice("whose", "show", list(table["whose"].unique())))
        .transform_filter("datum.whose == whose")
    )
    base = mean_over_seeds(base, "method", "predictor")
    shown = having(table, methods)
    y = alt.Y("method:N", sort=shown, title=None, axis=names_axis())
    offset = alt.YOffset("predictor:N", sort=predictors)
    told = ["method:N", "predictor:N", alt.Tooltip("shown:N", title="accuracy")]
    bars = base.mark_bar().encode(
        alt.X("mean:Q", title="accuracy", axis=alt.Axis(format="~%")),
        y,
        colour_of("predictor", predictors),
        yOffset=offset,
        tooltip=told,
    )
    whiskers = base.mark_rule().encode(alt.X("low:Q"), y, x2="high:Q", yOffset=offset, tooltip=told)
    height = len(shown) * row_height(shown, least=18 * len(predictors) + 12)
    title = "Accuracy with each predictor after the last round"
    return Figure("predictors", title, alt.layer(bars, whiskers).properties(height=height), PREDICTORS)


def fault_bars(table: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Return in how many rounds each client had a fault, by kind."""
    kinds = list(table["fault"].unique())
    top = int(table.groupby(["method", "client"])["rounds"].sum().max())
    axis = alt.Axis(values=list(range(top + 1))) if top <= FEW else alt.Axis()
    base = chart_of(FAULTS).add_params(choice("method", "method", having(table, methods))).transform_filter(ONE_METHOD)
    drawn = base.mark_bar().encode(
        alt.X("client:O", axis=alt.Axis(labelOverlap=True, labelAngle=0)),
        alt.Y("sum(rounds):Q", title="rounds", axis=axis),
        colour_of("fault", kinds, least=1),
        tooltip=["client:O", "fault:N", alt.Tooltip("sum(rounds):Q", title="rounds")],
    )
    return Figure("faults", "Rounds in which a client had a fault", drawn, FAULTS)


def published_points(table: pd.DataFrame) -> Figure:
    """Return the published number of each head beside ours, with one standard deviation."""
    labels = list(table["label"].unique())
    base = chart_of(PUBLISHED).add_params(choice("row", "row", labels)).transform_filter("datum.label == row")
    y = alt.Y("head:N", sort=list(table["head"].unique()), title=None, axis=alt.Axis(labelLimit=110))
    told = ["head:N", "whose:N", alt.Tooltip("value:Q", title="accuracy (%)", format=".1f"), "std:Q"]
    whose = ["published", "ours"]
    colour = colour_of("whose", whose)
    shapes = alt.Scale(domain=whose, range=["diamond", "circle"])
    points = base.mark_point(filled=True, size=90).encode(
        alt.X("value:Q", title="accuracy (%)", scale=alt.Scale(zero=False)),
        y,
        colour,
        shape=alt.Shape("whose:N", scale=shapes),
        tooltip=told,
    )
    spread = base.transform_calculate(low="datum.value - datum.std", high="datum.value + datum.std")
    whiskers = spread.transform_filter("isValid(datum.std)").mark_rule().encode(alt.X("low:Q"), y, colour, x2="high:Q")
    height = max(100, 36 * ceil(table["head"].nunique()))
    return Figure(
        "published", "Published beside ours", alt.layer(whiskers, points).properties(height=height), PUBLISHED
    )
