"""The tables that a page holds of its runs' accuracies: what its figures are drawn from, and what a test compares.

Accuracies are from 0 to 1, as in the tables of the runs. A column *method* has the label of the runs, *run* counts the
runs of a page, so that seeds of one method stay apart.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import pandas as pd

from fedsim.core.names import left_out
from fedsim.metrics.round_metrics import CLIENT_MEAN, GLOBAL_ACCURACY, predictors_in
from fedsim.metrics.scoring import joined
from fedsim.output.results import Result
from fedsim.report.heads import CLIENTS, GLOBAL_MODEL, head_of
from fedsim.report.page.thinning import Bins, named_bins, rounds_per_curve, thinned

Groups = Mapping[str, list[Result]]
WORST, BEST = "worst_client", "best_client"
MEGABYTES, SECONDS = "megabytes", "seconds"
MOST_CLIENTS = 3000
"""Points of the strip plot, over all methods"""


def numbered(groups: Groups) -> Iterator[tuple[str, int, Result]]:
    """Yield the label, the number and the run of each run."""
    number = 0
    for method, runs in groups.items():
        for run in runs:
            yield method, number, run
            number += 1


def of_each_run(groups: Groups, table_of: Callable[[Result], pd.DataFrame]) -> pd.DataFrame:
    """Return the tables of all runs as one, with the columns method, run and seed in front."""
    parts = []
    for method, number, run in numbered(groups):
        part = table_of(run)
        part.insert(0, "method", method)
        part.insert(1, "run", number)
        part.insert(2, "seed", run.summary["seed"])
        parts.append(part)
    kept = [part for part in parts if len(part)] or parts[:1]
    return pd.concat(kept, ignore_index=True)


def fitting(table: pd.DataFrame, curves: int) -> pd.DataFrame:
    """Return the rows of so few rounds that so many curves fit on a page."""
    return thinned(table, "round", rounds_per_curve(curves), "rounds")


def long(rounds: pd.DataFrame, columns: Mapping[str, tuple[str, ...]], names: Iterable[str]) -> pd.DataFrame:
    """Return a row for each round and column that has a value; a column's tuple fills the columns called ``names``."""
    parts = []
    for column, told in columns.items():
        values = rounds.loc[rounds[column].notna(), ["round", column]].rename(columns={column: "value"})
        parts.append(values.assign(**dict(zip(names, told, strict=True))))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["round", "value", *names])


def tests_of(run: Result) -> pd.DataFrame:
    """Return the rows of ``clients.csv`` that have an accuracy on test images."""
    return run.clients[(run.clients["split"] == "test") & run.clients["accuracy"].notna()]


def predictors_of(run: Result) -> list[str]:
    """Return the names of the predictors whose accuracies are in ``rounds.csv``, the plain one's first."""
    return predictors_in(dict.fromkeys(map(str, run.rounds)))


def accuracy_heads(groups: Groups) -> dict[str, str]:
    """Return the columns of ``accuracy_curves`` that are accuracies, with what they are called."""
    heads: dict[str, str] = {}
    predictors = dict.fromkeys(name for _, _, run in numbered(groups) for name in predictors_of(run))
    for what, metric in ((CLIENTS, CLIENT_MEAN), (GLOBAL_MODEL, GLOBAL_ACCURACY)):
        for name in predictors:
            column = joined(name, metric)
            if any(column in run.rounds for _, _, run in numbered(groups)):
                heads[column] = head_of(f"mean of {what}" if what == CLIENTS else what, name)
    return {**heads, WORST: "worst client", BEST: "best client"}


def accuracy_curves(groups: Groups) -> pd.DataFrame:
    """Return a row for each run and evaluated round: accuracies, and the bytes and seconds up to then."""
    heads = accuracy_heads(groups)

    def of_run(run: Result) -> pd.DataFrame:
        rounds = run.rounds
        sent = sum(
            (rounds[name].fillna(0) for name in ("bytes_down", "bytes_up") if name in rounds), 0 * rounds["round"]
        )
        taken = rounds["seconds"].fillna(0) if "seconds" in rounds else 0 * rounds["round"]
        columns = [name for name in heads if name in rounds]
        table = rounds[["round", *columns]].assign(**{MEGABYTES: sent.cumsum() / 1e6, SECONDS: taken.cumsum()})
        by_round = tests_of(run).groupby("round")["accuracy"]
        ends = pd.DataFrame({WORST: by_round.min(), BEST: by_round.max()})
        return table.dropna(subset=[CLIENT_MEAN]).merge(ends, on="round", how="left")

    return fitting(of_each_run(groups, of_run), sum(map(len, groups.values())))


WHOSE = {"client_domain_accuracy.": "clients of the domain", "domain_accuracy.": "global model"}
UNSEEN = "unseen_accuracy."


def domain_curves(groups: Groups) -> pd.DataFrame:
    """Return a row for each run, round and domain: the mean of its clients, and the global model on its test images."""

    def of_run(run: Result) -> pd.DataFrame:
        columns = {
            str(name): (whose, str(name).removeprefix(prefix))
            for prefix, whose in WHOSE.items()
            for name in run.rounds
            if str(name).startswith(prefix)
        }
        columns |= {
            str(name): (WHOSE["domain_accuracy."], left_out(str(name).removeprefix(UNSEEN)))
            for name in run.rounds
            if str(name).startswith(UNSEEN)
        }
        return long(run.rounds, columns, ("whose", "domain"))

    table = of_each_run(groups, of_run)
    return fitting(table, len(table[["run", "whose", "domain"]].drop_duplicates()))


def client_maps(groups: Groups) -> tuple[pd.DataFrame, Bins]:
    """Return a row for each method, client and round, mean over the seeds; many of them as one: see ``Bins``."""
    tables = {
        method: pd.concat([tests_of(run)[["client", "round", "accuracy"]] for run in runs])
        .groupby(["client", "round"])["accuracy"]
        .mean()
        .unstack()
        for method, runs in groups.items()
    }
    bins = Bins.of_all(list(tables.values()))
    return pd.concat(
        [cells_of(table, bins, ("client", "round", "value")).assign(method=method) for method, table in tables.items()],
        ignore_index=True,
    ), bins


def cells_of(table: pd.DataFrame, bins: Bins, names: tuple[str, str, str]) -> pd.DataFrame:
    """Return the cells of a heat map as rows: the first row and column of each bin, its value, and the bins' names."""
    row, column, value = names
    means = bins.mean(table)
    rows, columns = named_bins(table.index, bins.rows), named_bins(table.columns, bins.columns)
    cells = pd.DataFrame(
        {
            row: means.index.repeat(means.shape[1]),
            column: list(means.columns) * len(means),
            value: means.to_numpy(dtype=float).ravel(),
            f"{row}_bin": [name for name in rows for _ in columns],
            f"{column}_bin": columns * len(rows),
        }
    )
    return cells[cells[value].notna()]


def last_accuracies(groups: Groups) -> tuple[pd.DataFrame, int]:
    """Return a row for each method and client: its accuracy in the last evaluated round, mean over the seeds.

    The second number is of how many clients one is drawn.
    """
    parts = []
    for method, runs in groups.items():
        # The round of the table beside it: clients.csv has one more after a crash before rounds.csv was written.
        lasts = [(tests := tests_of(run))[tests["round"] == run.summary["final"]["round"]] for run in runs]
        means = pd.concat(lasts).groupby("client").agg(domain=("domain", "first"), accuracy=("accuracy", "mean"))
        parts.append(means.reset_index().assign(method=method))
    every = -(-sum(map(len, parts)) // MOST_CLIENTS)
    return pd.concat([part.iloc[::every] for part in parts], ignore_index=True), every
