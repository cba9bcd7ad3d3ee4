"""The tables that a page holds of what only some runs have: classes, costs, diagnostics, predictors and faults."""

from collections.abc import Sequence

import pandas as pd

from datasets.shots import SHOTS
from fedsim.engines.faults import ANSWERED
from fedsim.methods.interfaces import PLAIN
from fedsim.metrics.round_metrics import CLIENT_MEAN, GLOBAL_ACCURACY, predictors_in
from fedsim.metrics.scoring import joined
from fedsim.output.federation_table import OF_CLASS
from fedsim.output.recorder import PER_ROUND
from fedsim.output.results import Result
from fedsim.report.comparison_tables import diagnostics_by_label
from fedsim.report.heads import CLIENTS, GLOBAL_MODEL
from fedsim.report.page.frames import (
    Groups,
    accuracy_heads,
    cells_of,
    fitting,
    long,
    numbered,
    of_each_run,
    predictors_of,
)
from fedsim.report.page.thinning import MOST_CELLS, Bins, thinned

PLAIN_WORD = "plain"
"""What the plain predictor, whose name is empty, is called beside others"""
MOST_CLASSES = 400
MOST_CLIENTS_WITH_FAULTS = 60
FAMILIAR = ("client_", "global_", "validation_", "personal_age", *PER_ROUND)
"""Beginnings of columns of ``rounds.csv`` that any method has; what a method adds comes before them"""


def predictor_word(name: str) -> str:
    return PLAIN_WORD if name == PLAIN else name.replace("_", " ")


def label_maps(groups: Groups) -> tuple[pd.DataFrame, Bins] | None:
    """Return a row for each client and class with its training images, once for runs whose clients hold the same.

    ``None`` where no run says what its clients hold.
    """
    held: dict[str, pd.DataFrame] = {}
    for method, _, run in numbered(groups):
        if run.federation is None:
            continue
        table = run.federation.set_index("client").filter(regex=f"^{OF_CLASS.replace('.', '[.]')}")
        counts = table.set_axis([str(name).removeprefix(OF_CLASS) for name in table], axis="columns")
        if not counts.empty and not any(counts.equals(other) for other in held.values()):
            held[f"{method}, seed {run.summary['seed']}"] = counts
    if not held:
        return None
    bins = Bins.of_all(list(held.values()))
    parts = [cells_of(table, bins, ("client", "class", "value")).assign(held_by=name) for name, table in held.items()]
    return pd.concat(parts, ignore_index=True), bins


def shot_curves(groups: Groups) -> pd.DataFrame:
    """Return a row for each run, round, predictor and group of classes with many, medium or few training images."""

    def of_run(run: Result) -> pd.DataFrame:
        columns = {
            joined(name, shot): (predictor_word(name), shot)
            for name in predictors_of(run)
            for shot in SHOTS
            if joined(name, shot) in run.rounds
        }
        return long(run.rounds, columns, ("predictor", "shot"))

    table = of_each_run(groups, of_run)
    return fitting(table, len(table[["run", "predictor", "shot"]].drop_duplicates()))


def class_accuracies(groups: Groups) -> pd.DataFrame:
    """Return a row for each method, predictor and class after the last evaluated round, mean over the seeds.

    The *rank* of a class counts from the one with most training images.
    """

    def of_run(run: Result) -> pd.DataFrame:
        if run.classes is None or run.classes.empty:
            return pd.DataFrame(columns=["class", "train_images", "shot", "predictor", "value"])
        last = run.classes[run.classes["round"] == run.classes["round"].max()]
        names = [str(name) for name in last if str(name).endswith("accuracy")]
        found: pd.DataFrame = pd.concat(
            [
                last[["class", "train_images", "shot"]].assign(
                    predictor=predictor_word(name.removesuffix("accuracy").removesuffix("_")), value=last[name]
                )
                for name in names
            ],
            ignore_index=True,
        )
        return found

    table = of_each_run(groups, of_run)
    means = table.groupby(["method", "predictor", "class"], sort=False).agg(
        train_images=("train_images", "mean"), shot=("shot", "first"), value=("value", "mean")
    )
    means = means.dropna(subset="value").reset_index()
    by_size = means.groupby("class", sort=False)["train_images"].max().sort_values(ascending=False, kind="stable")
    means["rank"] = means["class"].map({name: rank for rank, name in enumerate(by_size.index)})
    return thinned(means, "rank", MOST_CLASSES, "classes")


def recorded_columns(groups: Groups) -> list[str]:
    """Return the numbers of ``rounds.csv`` that no other figure shows, what methods add first."""
    told = set(accuracy_heads(groups))
    found: dict[str, None] = {}
    for _, _, run in numbered(groups):
        ends = ("client_accuracy_worst", *SHOTS, CLIENT_MEAN, GLOBAL_ACCURACY)
        shown = {joined(name, end) for name in predictors_of(run) for end in ends} | told | {"round"}
        numbers = run.rounds.select_dtypes("number")
        found |= {str(name): None for name in numbers if name not in shown and "." not in str(name)}
    return sorted(found, key=lambda name: name.startswith(FAMILIAR))


def recorded_curves(groups: Groups) -> pd.DataFrame:
    """Return a row for each run, round and number of ``rounds.csv`` that no other figure shows."""
    columns = recorded_columns(groups)

    def of_run(run: Result) -> pd.DataFrame:
        return long(run.rounds, {name: (name,) for name in columns if name in run.rounds}, ("column",))

    table = of_each_run(groups, of_run)
    return fitting(table, len(table[["run", "column"]].drop_duplicates()))


COSTS = {
    "gflops": "GFLOPs of the largest client, over all rounds",
    "memory": "MB of memory of the largest client",
    "megabytes": "MB to and from all clients",
}


def costs(groups: Groups) -> pd.DataFrame:
    """Return a row for each run: its accuracy after the last round, and what it cost."""

    def of_run(run: Result) -> pd.DataFrame:
        rounds = run.rounds
        row = {"accuracy": run.summary["final"][CLIENT_MEAN]}
        if "device_gflops" in rounds:
            row |= {"gflops": rounds["device_gflops"].sum(), "memory": rounds["device_memory_mb"].max()}
        if "bytes_up" in rounds:
            row["megabytes"] = (rounds["bytes_up"].sum() + rounds["bytes_down"].sum()) / 1e6
        return pd.DataFrame([row])

    return of_each_run(groups, of_run)


def diagnostics(groups: Groups) -> pd.DataFrame:
    """Return a row for each method, metric, layer and round of ``diagnostics.csv``, mean over the seeds."""
    found = [table.assign(method=method) for method, table in diagnostics_by_label(dict(groups)).items()]
    if not found:
        return pd.DataFrame(columns=["method", "metric", "layer", "round", "value"])
    table = pd.concat(found, ignore_index=True).dropna(subset="value")
    rows = len(table[["method", "metric", "layer"]].drop_duplicates())
    return thinned(table, "round", max(2, MOST_CELLS // max(1, rows)), "diagnosed rounds")


def final_predictors(groups: Groups) -> pd.DataFrame:
    """Return a row for each run and predictor after the last round, of clients and of the global model.

    Runs with the plain predictor alone are left out.
    """

    def of_run(run: Result) -> pd.DataFrame:
        final = run.summary["final"]
        rows = [
            (whose, predictor_word(name), final[joined(name, metric)])
            for whose, metric in ((CLIENTS, CLIENT_MEAN), (GLOBAL_MODEL, GLOBAL_ACCURACY))
            for name in predictors_in(final)
            if joined(name, metric) in final
        ]
        further = any(predictor != PLAIN_WORD for _, predictor, _ in rows)
        return pd.DataFrame(rows if further else [], columns=["whose", "predictor", "value"])

    return of_each_run(groups, of_run)


def faults(groups: Groups) -> tuple[pd.DataFrame, int]:
    """Return a row for each method, client and kind of fault: in how many rounds it had it, summed over the seeds.

    Kinds are those of ``participation.csv``, or else what a client did not answer. The second number is how many
    clients had faults; those with the most are in the table.
    """
    parts = [_faults_of(run).assign(method=method) for method, _, run in numbered(groups)]
    counts = pd.concat(parts).groupby(["method", "client", "fault"], sort=False).size().rename("rounds").reset_index()
    by_client = counts.groupby("client")["rounds"].sum().sort_values(ascending=False, kind="stable")
    shown: Sequence[int] = list(by_client.index[:MOST_CLIENTS_WITH_FAULTS])
    return counts[counts["client"].isin(shown)].reset_index(drop=True), len(by_client)


def _faults_of(run: Result) -> pd.DataFrame:
    if run.participation is not None:
        absent = run.participation[run.participation["outcome"] != ANSWERED]
        return absent[["client"]].assign(fault=absent["outcome"].str.replace("_", " "))
    if "fault" not in run.clients:
        return pd.DataFrame({"client": [], "fault": []})
    failed = run.clients[run.clients["fault"].fillna("") != ""]
    return failed[["client"]].assign(fault="no answer: " + failed["split"])
