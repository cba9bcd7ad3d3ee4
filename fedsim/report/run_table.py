"""The table of one run, which is printed at its end: accuracies of the clients and of the global model by domain."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from datasets.shots import SHOTS
from fedsim.core.names import ALL, left_out
from fedsim.core.names import VALIDATION as VALIDATED
from fedsim.methods.interfaces import PLAIN
from fedsim.metrics.registry import FURTHER_METRICS
from fedsim.metrics.round_metrics import (
    CLIENT_MEAN,
    GLOBAL_ACCURACY,
    VALIDATION,
    client_mean_of,
    global_of,
    predictors_in,
)
from fedsim.metrics.scoring import joined
from fedsim.output.results import Result
from fedsim.report.heads import CLIENTS, GLOBAL_MODEL, by_title, head_of, is_metric, shown_under

LAST = (ALL, VALIDATED, *SHOTS)
"""Columns that come after the domains."""


def run_table(result: Result) -> Table:
    """Return the table that is printed at the end of a run: the cells of ``run_cells``."""
    found = run_cells(result)
    shown = Table(title=f"{result.summary['strategy']}: accuracy (%)", box=SIMPLE_HEAD)
    shown.add_column("", no_wrap=True)
    for name in found.columns:
        shown.add_column(name, justify="right", no_wrap=True)
    for number, (row, values) in enumerate(zip(found.index, found.to_numpy(), strict=True)):
        if number and (row == GLOBAL_MODEL or (not is_metric(found.index[number - 1]) and is_metric(row))):
            shown.add_section()
        shown.add_row(row, *values)
    return shown


def run_cells(result: Result) -> pd.DataFrame:
    """Return each domain's client accuracy and that of the global model, in percent as text; empty where there is none.

    A domain may have no clients of its own (all of them mixed, or left out), and mixed clients have no domain. Further
    metrics have rows of their own, such as ``clients, ece (%)``; without the percent sign they are not in percent.
    """
    final, best = result.summary["final"], result.summary["best"]
    chosen = " by validation" if VALIDATION in best else ""
    predictors = predictors_in(final)
    lines = {CLIENTS: _of_clients(final), f"clients, best round{chosen} {best['round']}": _of_clients(best)}
    lines |= {
        head_of(CLIENTS, name): _of_clients(final, name)
        for name in predictors[1:]
        if joined(name, CLIENT_MEAN) in final
    }
    lines |= {
        head_of(GLOBAL_MODEL, name): _of_global_model(final, name)
        for name in predictors
        if joined(name, GLOBAL_ACCURACY) in final
    }
    for metric in FURTHER_METRICS:
        for what, line_of in ((CLIENTS, _metric_of_clients), (GLOBAL_MODEL, _metric_of_global_model)):
            found = {head_of(what, name, metric): line_of(final, name, metric) for name in predictors}
            lines |= {row: line for row, line in found.items() if line}
    columns = list(dict.fromkeys(name for line in lines.values() for name in line))
    columns.sort(key=(*(name for name in columns if name not in LAST), *LAST).index)
    rows = [[shown_under(line[name], row) if name in line else "" for name in columns] for row, line in lines.items()]
    return pd.DataFrame(rows, index=list(lines), columns=columns)


def _of_clients(row: Mapping[str, Any], predictor: str = PLAIN) -> dict[str, float]:
    """Return the row of the clients' accuracies: by domain, over all domains, and on validation images."""
    validation = {VALIDATED: row[VALIDATION]} if predictor == PLAIN and VALIDATION in row else {}
    return {
        **by_title(row[joined(predictor, "client_domain_accuracy")]),
        ALL: row[joined(predictor, CLIENT_MEAN)],
        **validation,
    }


def _of_global_model(row: Mapping[str, Any], predictor: str) -> dict[str, float]:
    """Return the row of the global model's accuracies, with domains that were left out and the parts of a long tail."""
    unseen = row.get(joined(predictor, "unseen_accuracy"), {})
    return {
        **by_title(row[joined(predictor, "domain_accuracy")]),
        **{left_out(domain): accuracy for domain, accuracy in unseen.items()},
        ALL: row[joined(predictor, GLOBAL_ACCURACY)],
        **{shot: row[joined(predictor, shot)] for shot in SHOTS if joined(predictor, shot) in row},
    }


def _metric_of_clients(row: Mapping[str, Any], predictor: str, metric: str) -> dict[str, float]:
    """Return the row of a further metric of the clients; empty where it was not measured."""
    total = joined(predictor, client_mean_of(metric))
    if total not in row:
        return {}
    validation = f"validation_{metric}_mean"
    return {
        **by_title(row.get(joined(predictor, f"client_domain_{metric}"), {})),
        ALL: row[total],
        **({VALIDATED: row[validation]} if predictor == PLAIN and validation in row else {}),
    }


def _metric_of_global_model(row: Mapping[str, Any], predictor: str, metric: str) -> dict[str, float]:
    """Return the row of a further metric of the global model; empty where it was not measured."""
    total = joined(predictor, global_of(metric))
    if total not in row:
        return {}
    unseen = row.get(joined(predictor, f"unseen_{metric}"), {})
    return {
        **by_title(row.get(joined(predictor, f"domain_{metric}"), {})),
        **{left_out(domain): value for domain, value in unseen.items()},
        ALL: row[total],
    }
