"""The sections of a page, in their order; one that the runs have no data for is not there."""

from collections.abc import Callable, Sequence

import pandas as pd

from fedsim.report.page import accuracy_figures, further_figures, further_frames
from fedsim.report.page.document import Section
from fedsim.report.page.figure import Figure
from fedsim.report.page.frames import (
    Groups,
    accuracy_curves,
    accuracy_heads,
    client_maps,
    domain_curves,
    last_accuracies,
    numbered,
)
from fedsim.report.page.tables import of_texts
from fedsim.report.page.texts import all_settings, images, results, what_was_run
from fedsim.report.page.thinning import Bins
from fedsim.report.published import deviations, published_table, wide


def sections(groups: Groups) -> list[Section]:
    """Return the sections of a page of these runs, grouped by label."""
    found = [section_of(groups) for section_of in SECTIONS]
    return [section for section in found if section is not None]


def _convergence(groups: Groups) -> Section:
    curves, domains = accuracy_curves(groups), domain_curves(groups)
    methods = list(groups)
    figures = [
        accuracy_figures.convergence(accuracy_heads(groups), methods),
        accuracy_figures.spread(curves["round"].nunique(), methods),
    ]
    tables = {accuracy_figures.CURVES: curves}
    if domains["domain"].nunique() > 1:
        figures.append(accuracy_figures.domain_lines(domains, methods))
        tables[accuracy_figures.DOMAINS] = domains
    told = []
    if any(len(runs) > 1 for runs in groups.values()):
        told.append("Lines are means over the seeds, and bands one sample standard deviation on both sides.")
    if len(groups) > 1:
        told.append("A click on a method in a legend brings it out, with Shift another one too; twice shows all again.")
    return Section("convergence", "Convergence", told, figures=figures, tables=tables)


def _clients(groups: Groups) -> Section:
    cells, bins = client_maps(groups)
    points, every = last_accuracies(groups)
    methods, clients = list(groups), max(run.clients["client"].nunique() for _, _, run in numbered(groups))
    figures = [
        accuracy_figures.client_heat_map(cells, bins, methods, clients),
        accuracy_figures.last_round(points, methods),
    ]
    told = _told_of_bins(bins, "rounds")
    if every > 1:
        told.append(f"Of {every} clients one is drawn as a point; strokes are the means of these.")
    if any(len(runs) > 1 for runs in groups.values()):
        told.append("Each number is the mean over the seeds.")
    tables = {accuracy_figures.MAPS: cells, accuracy_figures.LAST: points}
    return Section("clients", "Clients", told, figures=figures, tables=tables)


def _told_of_bins(bins: Bins, columns: str) -> list[str]:
    sizes = [f"{size} {what}" for size, what in ((bins.rows, "clients"), (bins.columns, columns)) if size > 1]
    return [f"Each cell of the heat map is the mean of up to {' and '.join(sizes)}."] if sizes else []


def _labels(groups: Groups) -> Section | None:
    found = further_frames.label_maps(groups)
    if found is None:
        return None
    table, bins = found
    figure = further_figures.label_heat_map(table, bins)
    told = ["None is left empty. The colours follow the square root, so that a long tail is visible."]
    return _of_one("labels", "Labels of the clients", figure, table, told + _told_of_bins(bins, "classes"))


def _target(groups: Groups) -> Section:
    figure = accuracy_figures.target(accuracy_curves(groups), list(groups))
    told = [
        "Up to the first evaluated round in which the clients' mean accuracy is as high: mean and deviation over the "
        "seeds that reach it. Seconds are those of the machine that ran the simulation, not of a device."
    ]
    return Section("target", "Bytes and time to a target accuracy", told, figures=[figure])


def _published(groups: Groups) -> Section | None:
    table = published_table(groups)
    if table.empty:
        return None
    html = "".join(f"{of_texts('row', _flat(wide(rows)))}" for _, rows in table.groupby("table", sort=False))
    names = list(table["table"].unique())
    points = pd.concat(
        [
            table[["label", "head", value, std]].set_axis(["label", "head", "value", "std"], axis=1).assign(whose=whose)
            for value, std, whose in (("published", "published_std", "published"), ("ours", "std", "ours"))
        ],
        ignore_index=True,
    ).astype({"std": float})
    figure = further_figures.published_points(points)
    return Section(
        "published",
        "Published beside ours",
        [*names, *deviations(groups)],
        html,
        [figure],
        {further_figures.PUBLISHED: points},
    )


def _flat(cells: pd.DataFrame) -> pd.DataFrame:
    return cells.set_axis([" · ".join(names) for names in cells.index], axis="index")


def _classes(groups: Groups) -> Section | None:
    if all(run.classes is None or run.classes.empty for _, _, run in numbered(groups)):
        return None
    classes, shots, methods = further_frames.class_accuracies(groups), further_frames.shot_curves(groups), list(groups)
    figures, tables = [further_figures.class_points(classes, methods)], {further_figures.CLASSES: classes}
    if not shots.empty:
        figures.insert(0, further_figures.shot_lines(shots, methods))
        tables[further_figures.SHOT_CURVES] = shots
    told = ["Of the global model. Classes are in the order of their training images, the largest first."]
    return Section("classes", "Classes", told, figures=figures, tables=tables)


def _predictors(groups: Groups) -> Section | None:
    table = further_frames.final_predictors(groups)
    if table.empty:
        return None
    figure = further_figures.predictor_bars(table, list(groups))
    return _of_one("predictors", "Adapted, masked and other predictors", figure, table)


def _costs(groups: Groups) -> Section | None:
    columns = further_frames.recorded_columns(groups)
    if not columns:
        return None
    recorded, costs, methods = further_frames.recorded_curves(groups), further_frames.costs(groups), list(groups)
    figures = [further_figures.recorded_lines(columns, methods)]
    tables = {further_figures.RECORDED: recorded}
    if len(costs) > 1 and set(further_frames.COSTS) & set(costs):
        figures.append(further_figures.cost_points(costs, further_frames.COSTS, methods))
        tables[further_figures.COST] = costs
    return Section("costs", "Costs, and what the method records", figures=figures, tables=tables)


def _diagnostics(groups: Groups) -> Section | None:
    table = further_frames.diagnostics(groups)
    if table.empty:
        return None
    return _of_one("diagnostics", "Normalization", further_figures.diagnostics_heat_map(table, list(groups)), table)


def _faults(groups: Groups) -> Section | None:
    table, clients = further_frames.faults(groups)
    if table.empty:
        return None
    shown = table["client"].nunique()
    told = [f"The {shown} clients with most faults, of {clients} that had any."] if shown < clients else []
    return _of_one("faults", "Faults", further_figures.fault_bars(table, list(groups)), table, told)


def _of_one(name: str, title: str, figure: Figure, table: pd.DataFrame, notes: Sequence[str] = ()) -> Section:
    return Section(name, title, notes, figures=[figure], tables={figure.data: table})


SECTIONS: tuple[Callable[[Groups], Section | None], ...] = (
    what_was_run,
    results,
    _convergence,
    _clients,
    _labels,
    _target,
    _published,
    _classes,
    _predictors,
    _costs,
    _diagnostics,
    _faults,
    images,
    all_settings,
)
