"""The heads of rows and columns in tables of accuracies, and how the numbers under them are written."""

from collections.abc import Mapping
from typing import Any

from datasets.shots import SHOTS
from fedsim.core.names import GLOBAL, MEAN, left_out, title
from fedsim.methods.interfaces import PLAIN
from fedsim.metrics.registry import FURTHER_METRICS
from fedsim.metrics.round_metrics import CLIENT_MEAN, GLOBAL_ACCURACY, client_mean_of, global_of, predictors_in
from fedsim.metrics.scoring import joined

CLIENTS, GLOBAL_MODEL = "clients", "global model"
PERCENT = " (%)"
"""The end of the head of a further metric that is shown in percent."""
TOTALS = {MEAN: CLIENT_MEAN, GLOBAL: GLOBAL_ACCURACY, **{f"{GLOBAL} {shot}": shot for shot in SHOTS}}
"""The heads of totals over all domains, and the metric of each."""


def accuracies_by_head(measured: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a run's ``final`` or ``best`` round for each domain and over all of them, by head."""
    row = {title(domain): accuracy for domain, accuracy in measured["client_domain_accuracy"].items()}
    row |= {left_out(domain): accuracy for domain, accuracy in measured.get("unseen_accuracy", {}).items()}
    for total, metric in TOTALS.items():  # titles of domains differ from these
        for name in predictors_in(measured):
            if joined(name, metric) in measured:
                row[head_of(total, name)] = measured[joined(name, metric)]
    for metric in FURTHER_METRICS:
        for total, column in ((MEAN, client_mean_of(metric)), (GLOBAL, global_of(metric))):
            for name in predictors_in(measured):
                if joined(name, column) in measured:
                    row[head_of(total, name, metric)] = measured[joined(name, column)]
    return row


def head_of(what: str, predictor: str, metric: str = "") -> str:
    """Return the head of a row or column: ``clients, adapted``, and with a metric ``clients, adapted, ece (%)``."""
    parts = [what] if predictor == PLAIN else [what, predictor.replace("_", " ")]
    if metric:
        parts.append(metric.replace("_", " ") + (PERCENT if FURTHER_METRICS[metric].percent else ""))
    return ", ".join(parts)


def is_metric(head: str) -> bool:
    """Return whether a head made by ``head_of`` is that of a further metric."""
    ends = tuple(head_of("", PLAIN, metric) for metric in FURTHER_METRICS)
    return head.partition(",")[0] in (*TOTALS, CLIENTS, GLOBAL_MODEL) and head.endswith(ends)


def in_percent(head: str) -> bool:
    """Return whether the numbers under a head are in percent, as every accuracy is."""
    return not is_metric(head) or head.endswith(PERCENT)


def places_of(head: str) -> int:
    """Return how many decimal places are shown under a head."""
    return 1 if in_percent(head) else 3


def shown_under(value: float, head: str) -> str:
    return f"{100 * value:.1f}" if in_percent(head) else f"{value:.3f}"


def by_title(by_domain: Mapping[str, float]) -> dict[str, float]:
    return {title(domain): accuracy for domain, accuracy in by_domain.items()}


def is_total(head: str) -> bool:
    """Return whether a head is that of a total over all domains."""
    return head.partition(",")[0] in TOTALS
