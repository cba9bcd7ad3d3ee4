"""The metrics of one round, under their names in ``rounds.csv`` and ``summary.json``.

* *global accuracy*: the global model on the union of the test sets, each image counted once, and on each domain's.
* *client accuracy*: each client's own model on its own test set; the mean is over all clients, unweighted, and another
  one is weighted by test images; the standard deviation is over the clients (population formula).
* *validation accuracy*: the same model on the client's validation images, if any client has some.
* *personal age*: rounds since a client last trained its personal part of the model.
* names with the prefix of a predictor, as ``adapted_global_accuracy``: the same models with another way of predicting,
  *adapted* to the test images (``tta=``), *masked* to the classes a client has trained on, or a predictor of the
  method.
* *further metrics* in ``metrics=`` have the names of the accuracies, with ``accuracy`` replaced: ``client_ece_mean``,
  ``global_ece``, ``domain_ece.plain``. A mean is over the clients for which the metric is defined.
* *unseen accuracy*: the global model on the test set of a domain that was left out; not part of global accuracy.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

from datasets.federation import Federation
from fedsim.engines.faults import Attendance
from fedsim.methods.interfaces import PLAIN
from fedsim.metrics.measured import Evaluation, Measured, pool
from fedsim.metrics.scoring import joined

Row = dict[str, Any]
Key = TypeVar("Key", int, str)
VALIDATION = "validation_accuracy_mean"
CLIENT_MEAN = "client_accuracy_mean"
GLOBAL_ACCURACY = "global_accuracy"


def round_metrics(evaluation: Evaluation, federation: Federation) -> Row:
    """Return the metrics of a round by name; names with a dot are per domain: ``domain_accuracy.plain``."""
    accuracy = np.array([tested.accuracy for tested in evaluation.clients.values()])
    examples = np.array([tested.num_examples for tested in evaluation.clients.values()])
    return {
        **_global_metrics(evaluation),
        CLIENT_MEAN: float(accuracy.mean()),
        "client_accuracy_weighted": float(np.average(accuracy, weights=examples)),
        "client_accuracy_std": float(accuracy.std()),
        "client_accuracy_worst": float(accuracy.min()),
        **{f"domain_accuracy.{domain}": tested.accuracy for domain, tested in evaluation.domains.items()},
        **{
            f"client_domain_accuracy.{domain}": mean
            for domain, mean in client_mean_by_domain(evaluation.clients, federation).items()
        },
        **{f"unseen_accuracy.{domain}": tested.accuracy for domain, tested in evaluation.unseen.items()},
        **_validation_metrics(evaluation),
        **_metrics_of_other_predictors(evaluation, federation),
        **_further_metrics(evaluation, federation),
    }


def _global_metrics(evaluation: Evaluation) -> Row:
    """Return the metrics of the global model; empty if there is none, as devices do not send their personal parts."""
    if not evaluation.domains:
        return {}
    union = pool(evaluation.domains.values())
    return {GLOBAL_ACCURACY: union.accuracy, "global_loss": union.loss}


def _validation_metrics(evaluation: Evaluation) -> Row:
    if not evaluation.validation:
        return {}
    return {VALIDATION: float(np.mean([tested.accuracy for tested in evaluation.validation.values()]))}


def _metrics_of_other_predictors(evaluation: Evaluation, federation: Federation) -> Row:
    """Return the metrics of other predictors than the plain one, of clients' models and then of the global model.

    A predictor may exist only for one of both.
    """
    row: Row = {}
    for name in other_predictors(evaluation.clients):
        clients = _by(name, evaluation.clients)
        accuracies = [tested.accuracy for tested in clients.values()]
        row[f"{name}_{CLIENT_MEAN}"] = float(np.mean(accuracies))
        row[f"{name}_client_accuracy_worst"] = min(accuracies)
        for domain, mean in client_mean_by_domain(clients, federation).items():
            row[f"{name}_client_domain_accuracy.{domain}"] = mean
    for name in other_predictors(evaluation.domains):
        domains = _by(name, evaluation.domains)
        row[f"{name}_{GLOBAL_ACCURACY}"] = pool(domains.values()).accuracy
        for domain, tested in domains.items():
            row[f"{name}_domain_accuracy.{domain}"] = tested.accuracy
        for domain, tested in _by(name, evaluation.unseen).items():
            row[f"{name}_unseen_accuracy.{domain}"] = tested.accuracy
    return row


def _further_metrics(evaluation: Evaluation, federation: Federation) -> Row:
    """Return the further metrics in ``metrics=`` of every predictor; ``None`` for an undefined one."""
    row: Row = {}
    for predictor in (PLAIN, *other_predictors(evaluation.clients)):
        clients = {client: tested.values for client, tested in _by(predictor, evaluation.clients).items()}
        for name in _names(clients):
            values = {client: value for client, each in clients.items() if (value := each[name]) is not None}
            row[joined(predictor, client_mean_of(name))] = float(np.mean(list(values.values()))) if values else None
            for domain, mean in _mean_by_domain(values, federation).items():
                row[joined(predictor, f"client_domain_{name}.{domain}")] = mean
    for predictor in (PLAIN, *other_predictors(evaluation.domains)):
        domains, unseen = _by(predictor, evaluation.domains), _by(predictor, evaluation.unseen)
        for name, value in pool(domains.values()).values.items() if domains else ():
            row[joined(predictor, global_of(name))] = value
            for domain, tested in domains.items():
                row[joined(predictor, f"domain_{name}.{domain}")] = tested.values[name]
            for domain, tested in unseen.items():
                row[joined(predictor, f"unseen_{name}.{domain}")] = tested.values[name]
    validation = {client: tested.values for client, tested in evaluation.validation.items()}
    for name in _names(validation):
        found = [value for each in validation.values() if (value := each[name]) is not None]
        row[f"validation_{name}_mean"] = float(np.mean(found)) if found else None
    return row


def client_mean_of(metric: str) -> str:
    """Return the name of the mean over clients of a further metric."""
    return f"client_{metric}_mean"


def global_of(metric: str) -> str:
    """Return the name of a further metric of the global model."""
    return f"global_{metric}"


def _names(values: Mapping[int, Mapping[str, float | None]]) -> list[str]:
    return list(next(iter(values.values()), {}))


def other_predictors(results: Mapping[Key, Measured]) -> list[str]:
    """Return the names of the predictors beside the plain one."""
    return list(next(iter(results.values())).others) if results else []


def predictors_in(row: Mapping[str, Any]) -> list[str]:
    """Return the names of all predictors whose accuracies are in a row, the plain one's first."""
    found = [PLAIN]
    for metric in (CLIENT_MEAN, GLOBAL_ACCURACY):
        found += [name.removesuffix(f"_{metric}") for name in row if name.endswith(f"_{metric}")]
    return list(dict.fromkeys(found))


def _by(predictor: str, results: Mapping[Key, Measured]) -> dict[Key, Measured]:
    return {key: tested.others[predictor] if predictor != PLAIN else tested for key, tested in results.items()}


def age_metrics(ages: list[int]) -> Row:
    """Return mean and maximum of the rounds since clients' personal parts were last trained; empty without any.

    A personal part becomes outdated while the shared part is trained by others: with a participation of 10 % it is nine
    rounds old on average.
    """
    return {"personal_age_mean": float(np.mean(ages)), "personal_age_max": max(ages)} if ages else {}


def client_rows(evaluation: Evaluation, federation: Federation, round: int) -> list[Row]:
    """Return the rows of ``clients.csv``."""
    return [
        {
            "round": round,
            "client": client,
            "domain": federation.domain_of(client),
            "split": part,
            "num_examples": tested.num_examples,
            "loss": tested.loss,
            "accuracy": tested.accuracy,
            **{f"{name}_accuracy": other.accuracy for name, other in tested.others.items()},
            **{
                joined(predictor, name): value
                for predictor, each in {PLAIN: tested, **tested.others}.items()
                for name, value in each.values.items()
            },
        }
        for part, measured in (("test", evaluation.clients), ("validation", evaluation.validation))
        for client, tested in measured.items()
    ]


def fault_rows(faults: Iterable[tuple[int, str, str]], federation: Federation, round: int) -> list[Row]:
    """Return the rows of ``clients.csv`` for clients that failed or whose reply was refused, with the reasons."""
    return [
        {
            "round": round,
            "client": client,
            # A failed reply may name any client.
            "domain": federation.domain_of(client) if client in federation.clients else "",
            "split": doing,
            "fault": fault,
        }
        for client, doing, fault in faults
    ]


def attendance_rows(attendances: Mapping[int, Attendance], images: Mapping[int, int], round: int) -> list[Row]:
    """Return the rows of ``participation.csv``; ``images`` are those of all passes."""
    return [
        {"round": round, "client": client, "images": images[client], "seconds": each.seconds, "outcome": each.outcome}
        for client, each in attendances.items()
    ]


def client_mean_by_domain(clients: Mapping[int, Measured], federation: Federation) -> dict[str, float]:
    """Return the unweighted mean of client accuracy over the clients of each domain, as in the tables of papers."""
    return _mean_by_domain({client: tested.accuracy for client, tested in clients.items()}, federation)


def _mean_by_domain(values: Mapping[int, float], federation: Federation) -> dict[str, float]:
    by_domain: dict[str, list[float]] = {domain: [] for domain in federation.domain_tests}
    for client, value in values.items():
        by_domain.setdefault(federation.domain_of(client), []).append(value)
    return {domain: float(np.mean(mine)) for domain, mine in by_domain.items() if mine}


def nested(row: Mapping[str, Any]) -> Row:
    """Return ``{"a.b": 1}`` as ``{"a": {"b": 1}}``, for JSON."""
    result: Row = {}
    for name, value in row.items():
        group, dot, inner = name.partition(".")
        if dot:
            result.setdefault(group, {})[inner] = value
        else:
            result[name] = value
    return result


def best_row(rows: Iterable[Row]) -> Row:
    """Return the evaluated round with the highest mean validation accuracy, or client accuracy without validation.

    Of equal rounds the earliest is returned. Without validation images it is chosen on the test images, so that its
    accuracy is biased upwards; it is reported beside the final round and never instead of it.
    """
    return max(evaluated(rows), key=lambda row: (row.get(VALIDATION, row[CLIENT_MEAN]), -row["round"]))


def evaluated(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.get(CLIENT_MEAN) is not None]
