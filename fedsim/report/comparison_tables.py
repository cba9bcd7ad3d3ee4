"""Tables that compare runs: accuracies after the last round, mean ± sample deviation over seeds."""

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from fedsim.core.names import MEAN
from fedsim.metrics.round_metrics import CLIENT_MEAN
from fedsim.output.results import Result
from fedsim.report.heads import accuracies_by_head, in_percent, is_total, places_of
from fedsim.report.labels import refuse_twins
from fedsim.report.markdown import plain


def accuracy_by_seed(runs: list[Result]) -> dict[int, float]:
    """Return by seed the mean client accuracy after the last round (0 to 1) of the runs of one label."""
    return {run.summary["seed"]: run.summary["final"][CLIENT_MEAN] for run in runs}


def accuracy_table(groups: dict[str, list[Result]]) -> pd.DataFrame:
    """Return a table of client accuracies after the last round, in percent: label, domain, mean, std, number of runs.

    In the column ``domain``, ``mean`` is the unweighted mean over all clients, ``global`` the accuracy of the global
    model on the union of the domains, ``global many`` that on classes with many training images. For a domain that was
    left out, the accuracy is that of the global model. Each further predictor adds rows such as ``mean, adapted`` and
    ``global few, realigned``, and each further metric rows such as ``mean, ece (%)``, ``global, ece (%)`` and ``mean,
    adapted, ece (%)``; metrics without the percent sign are not in percent.

    Raises:
        UserError: If two runs of a label have the same seed.
    """
    rows = []
    for label, runs in groups.items():
        refuse_twins(runs, label)
        columns: dict[str, list[float]] = {}
        for run in runs:
            for column, value in accuracies_by_head(run.summary["final"]).items():
                columns.setdefault(column, []).append(value)
        for domain, values in columns.items():
            series = (100 if in_percent(domain) else 1) * pd.Series(values)
            rows.append((label, domain, series.mean(), series.std(), len(series)))
    return pd.DataFrame(rows, columns=["label", "domain", "mean", "std", "runs"])


def learning_curves(groups: dict[str, list[Result]]) -> dict[str, pd.DataFrame]:
    """Return the mean client accuracy (0 to 1) of each label as a frame of rounds × runs."""
    return {
        label: pd.DataFrame(
            {
                number: run.rounds.dropna(subset="client_accuracy_mean").set_index("round")["client_accuracy_mean"]
                for number, run in enumerate(runs)
            }
        )
        for label, runs in groups.items()
    }


def diagnostics_by_label(groups: dict[str, list[Result]]) -> dict[str, pd.DataFrame]:
    """Return the mean over runs of every number in ``diagnostics.csv``; labels whose runs have none are left out."""
    found: dict[str, pd.DataFrame] = {}
    for label, runs in groups.items():
        frames = [run.diagnostics for run in runs if run.diagnostics is not None]
        if frames:
            rows = pd.concat(frames).groupby(["round", "layer", "metric"], sort=False)["value"]
            found[label] = rows.mean().reset_index()
    return found


def cells(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as texts ``mean ± std``, labels × domains; without a deviation where there is one run.

    Where only some of a label's runs have a domain, the text has their number.
    """
    runs = table.groupby("label")["runs"].transform("max")
    of_all = [
        "" if some == most else f" ({some} of {most} runs)" for some, most in zip(table["runs"], runs, strict=True)
    ]
    text = table.assign(
        cell=[
            (f"{row.mean:.{places}f}" if row.runs == 1 else f"{row.mean:.{places}f} ± {row.std:.{places}f}") + part
            for row, places, part in zip(table.itertuples(), map(places_of, table["domain"]), of_all, strict=True)
        ]
    )
    wide = text.pivot(index="label", columns="domain", values="cell")
    names = sorted(table["domain"].unique(), key=is_total)  # totals last
    return wide.reindex(index=table["label"].unique(), columns=names).fillna("")


def render(table: pd.DataFrame) -> Table:
    """Return the table for a terminal: a row for each domain, a column for each label."""
    most = table["runs"].max()
    runs = f"{'up to ' if table['runs'].min() < most else ''}{most} run{'s' if most > 1 else ''}"
    head = f"client accuracy after the last round (%), {runs} each"
    shown = Table(title=head, box=SIMPLE_HEAD, pad_edge=False)
    wide = cells(table)
    shown.add_column("")
    for label in wide.index:
        shown.add_column(str(label), justify="right", min_width=max(map(len, wide.loc[label])))
    for domain in wide.columns:
        if domain == MEAN:
            shown.add_section()
        shown.add_row(domain, *wide[domain])
    return shown


def to_markdown(table: pd.DataFrame) -> str:
    wide = cells(table)
    lines = ["| | " + " | ".join(map(plain, wide.columns)) + " |", "|---|" + "---:|" * len(wide.columns)]
    lines += [f"| {plain(str(label))} | " + " | ".join(row) + " |" for label, row in wide.iterrows()]
    return "\n".join(lines) + "\n"
