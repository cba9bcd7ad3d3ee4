"""Which numbers of runs a table shows: ``--metric``, ``--by`` and ``--round`` of ``python -m fedsim.report``.

A metric is a column of ``clients.csv`` (such as ``accuracy``, ``loss``, ``realigned_accuracy``), for which there is a
value for each client, or else any column of ``rounds.csv`` (such as ``bytes_up``, ``client_accuracy_worst``).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from datasets.shots import SHOTS
from fedsim.core.errors import UserError
from fedsim.core.names import GLOBAL, MEAN, left_out, title
from fedsim.metrics.metric import Metric
from fedsim.metrics.registry import FURTHER_METRICS
from fedsim.metrics.round_metrics import VALIDATION
from fedsim.output.results import Result

ACCURACY = "accuracy"
DOMAIN, CLIENT, SHOT, CLASS = "domain", "client", "shot", "class"
BY = (DOMAIN, CLIENT, SHOT, CLASS)
FINAL, BEST = "final", "best"
TOTALS = (MEAN, GLOBAL)
"""The columns that come last: over all clients, and of the global model."""
STRUCTURE = ("round", "client", "domain", "split", "num_examples", "fault", "class", "train_images", "shot")
"""Columns of tables that are no metrics."""


@dataclass(frozen=True)
class Selection:
    """What is shown of each run."""

    metric: str = ACCURACY
    by: str | None = DOMAIN
    """What the metric is shown for, one of ``BY``; ``None`` for a column of ``rounds.csv``"""
    round: str | int = FINAL
    """``final``, ``best``, or a number"""

    @property
    def in_percent(self) -> bool:
        """Whether the metric is shown in percent, as every accuracy is."""
        return self._further.percent if self._further else self._is_accuracy

    @property
    def lower_is_better(self) -> bool:
        """Whether smaller values are better: of spreads, and of all but accuracies and metrics like them."""
        higher = self._further.higher_is_better if self._further else self._is_accuracy
        return not higher or self.metric.endswith("_std")

    @property
    def _is_accuracy(self) -> bool:
        return ACCURACY in self.metric or self.metric.rpartition("_")[2] in SHOTS

    @property
    def _further(self) -> Metric | None:
        """The further metric whose name is part of the column's, as in ``client_ece_mean`` and ``domain_ece.photo``."""
        named = (each for name, each in FURTHER_METRICS.items() if re.search(rf"(^|_){name}($|[_.])", self.metric))
        return next(named, None)

    @property
    def places(self) -> int:
        """How many decimal places are shown."""
        return 1 if self.in_percent else 3

    def words(self, over: str, best_by: str = "") -> str:
        """Return what is shown, in words: ``accuracy (%) by domain, last round``, where ``over`` is *by domain*."""
        rounds = {FINAL: "last round", BEST: f"best round {best_by}".rstrip()}
        unit = " (%)" if self.in_percent else ""
        return f"{self.metric.replace('_', ' ')}{unit}{over}, {rounds.get(str(self.round), f'round {self.round}')}"

    def values(self, run: Result) -> dict[str, float]:
        """Return the numbers of a run by head, from 0 to 1 where they are shown in percent.

        Raises:
            UserError: If the run has no such metric, or the round was not evaluated.
        """
        found = {
            DOMAIN: self._by_domain,
            CLIENT: self._by_client,
            SHOT: self._by_shot,
            CLASS: self._by_class,
            None: self._of_round,
        }[self.by](run)
        return {head: value for head, value in found.items() if not pd.isna(value)}

    @staticmethod
    def total(values: Mapping[str, float]) -> float:
        """Return the one number that stands for these: the mean over clients, or that of the global model."""
        return next((values[head] for head in TOTALS if head in values), next(iter(values.values())))

    def round_of(self, run: Result) -> int:
        """Return the number of the round that is shown of a run."""
        return self.round if isinstance(self.round, int) else int(run.summary[self.round]["round"])

    def _by_domain(self, run: Result) -> dict[str, float]:
        clients, row = self._clients(run), self._row(run)
        means = clients.groupby("domain", sort=False)[self.metric].mean()
        unseen = f"{self._under('unseen')}."
        others = {left_out(key.removeprefix(unseen)): row[key] for key in row if key.startswith(unseen)}
        return {**{title(str(domain)): mean for domain, mean in means.items()}, **others, **self._totals(run)}

    def _by_client(self, run: Result) -> dict[str, float]:
        clients = self._clients(run)
        return {
            **{
                f"client {client}": value for client, value in zip(clients["client"], clients[self.metric], strict=True)
            },
            **self._totals(run),
        }

    def _by_shot(self, run: Result) -> dict[str, float]:
        row, prefix = self._row(run), self.metric.removesuffix(ACCURACY)
        found = {shot: row[f"{prefix}{shot}"] for shot in SHOTS if f"{prefix}{shot}" in row}
        if not self.metric.endswith(ACCURACY) or not found:
            raise UserError(
                f"--by=shot is not possible: {run.run_dir} has no {self.metric} of many, medium and few classes; "
                "choose an accuracy, and runs on long-tailed data."
            )
        return {**found, **self._of_global_model(row)}

    def _by_class(self, run: Result) -> dict[str, float]:
        if run.classes is None or self.metric not in run.classes:
            known = [] if run.classes is None else [str(name) for name in run.classes if name not in STRUCTURE]
            raise self._unknown("class", run, known)
        rows = run.classes[run.classes["round"] == self.round_of(run)]
        by_class = {title(str(name)): value for name, value in zip(rows["class"], rows[self.metric], strict=True)}
        return {**by_class, **self._of_global_model(self._row(run))}

    def _of_round(self, run: Result) -> dict[str, float]:
        row = self._row(run)
        if self.metric not in row:
            raise self._unknown("round", run, [*metrics_of_clients(run), *(name for name in row if name != "round")])
        return {self.metric: row[self.metric]}

    def _totals(self, run: Result) -> dict[str, float]:
        return {MEAN: self._clients(run)[self.metric].mean(), **self._of_global_model(self._row(run))}

    def _of_global_model(self, row: Mapping[str, float]) -> dict[str, float]:
        """Return the number of the global model, where there is one."""
        name = self._under(GLOBAL)
        return {GLOBAL: row[name]} if name in row else {}

    def _under(self, what: str) -> str:
        """Return the name of a column of ``rounds.csv``: ``realigned_global_accuracy`` of ``realigned_accuracy``."""
        end = next((name for name in (*FURTHER_METRICS, ACCURACY) if self.metric.endswith(name)), self.metric)
        return f"{self.metric.removesuffix(end)}{what}_{end}"

    def _clients(self, run: Result) -> pd.DataFrame:
        if self.metric not in run.clients:
            raise self._unknown(str(self.by), run, metrics_of_clients(run))
        mine = run.clients[(run.clients["split"] == "test") & (run.clients["round"] == self.round_of(run))]
        if mine[self.metric].isna().all():
            raise self._not_evaluated(run)
        return mine

    def _row(self, run: Result) -> dict[str, float]:
        rows = run.rounds[run.rounds["round"] == self.round_of(run)]
        if rows.empty:
            raise self._not_evaluated(run)
        return {str(name): value for name, value in rows.iloc[-1].items() if not pd.isna(value)}

    def _not_evaluated(self, run: Result) -> UserError:
        there = run.clients.loc[run.clients["split"] == "test", "round"].drop_duplicates()
        return UserError(
            f"--round={self.round} has no {self.metric} in {run.run_dir}: choose final, best or "
            f"{', '.join(map(str, there))}."
        )

    def _unknown(self, where: str, run: Result, known: list[str]) -> UserError:
        names = ", ".join(name for name in dict.fromkeys(known) if "." not in name) or "another --by"
        return UserError(f"--metric={self.metric} is not known by {where} in {run.run_dir}: choose {names}.")


def best_by(runs: Iterable[Result]) -> str:
    """Return by which images the best rounds of runs were chosen, in words; by test images it flatters a run."""
    found = {"by validation" if VALIDATION in run.summary[BEST] else "by test images" for run in runs}
    return " or ".join(sorted(found, reverse=True))


def metrics_of_clients(run: Result) -> list[str]:
    return [str(name) for name in run.clients if name not in STRUCTURE]


def selection(metric: str, by: str | None, round: str, runs: list[Result]) -> Selection:
    """Return the selection that the options of the command name, for these runs.

    Without ``by``, a metric that clients have is shown by domain, and any other as the one number of a round.

    Raises:
        UserError: If ``by`` or ``round`` is none of the possible ones.
    """
    if by is not None and by not in BY:
        raise UserError(f"--by={by} is not known: choose {', '.join(BY)}.")
    if round not in (FINAL, BEST) and not round.isdecimal():
        raise UserError(f"--round={round} is not possible: choose final, best or the number of a round.")
    number = int(round) if round.isdecimal() else round
    if by is None and all(metric in metrics_of_clients(run) for run in runs):
        by = DOMAIN
    return Selection(metric, by, number)
