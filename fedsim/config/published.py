"""What a paper has published for the settings of an experiment: the entry ``published:`` of ``configs/experiment``.

    published:
      table: Table 1 of FedWon (arXiv 2306.05879)
      experiment: fedwon_digits5
      unknown: [lr, rounds]
      rows:
        - {run: strategy=fedavg norm=gn, mean: 88.0 ± 0.1, svhn: 76.9 ± 0.1}

``run`` holds the words that one adds to ``experiment=NAME`` for this row, ``~split.alpha`` for a setting that it leaves
out; every other entry is an accuracy in percent by its head in the table of ``fedsim.report``, with the standard
deviation where the paper has one. ``unknown`` names settings of the experiment that the paper does not say. With
``round: best``, the paper quotes the round that validation chooses, and otherwise the last one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

FORM = (
    "null, or a mapping with table, experiment, rows and, if need be, unknown and round (last or best), where a row "
    "has run: WORDS and accuracies such as mean: 88.0 ± 0.1"
)
"""What is allowed, in words"""
RUN = "run"
ROUNDS = ("last", "best")
_ACCURACY = re.compile(r"(\d+(?:\.\d+)?)(?:\s*±\s*(\d+(?:\.\d+)?))?")


@dataclass(frozen=True)
class Accuracy:
    """An accuracy in percent as it is printed in a paper."""

    mean: float
    deviation: float | None = None

    @classmethod
    def read(cls, text: object) -> Self:
        """Read ``88.0`` or ``88.0 ± 0.1``.

        Raises:
            ValueError: If it is neither.
        """
        found = _ACCURACY.fullmatch(str(text).strip())
        if found is None or float(found[1]) > 100:
            raise ValueError(f"{text} is no accuracy")
        return cls(float(found[1]), None if found[2] is None else float(found[2]))

    def __str__(self) -> str:
        return f"{self.mean:.1f}" if self.deviation is None else f"{self.mean:.1f} ± {self.deviation:.1f}"


@dataclass(frozen=True)
class Row:
    """A row of a published table."""

    words: Mapping[str, str | None]
    """The overrides that make the row of the experiment, by key; ``None`` for a setting that is left out"""
    accuracies: Mapping[str, Accuracy]
    """By head: ``mean`` over clients, ``global``, a domain"""

    @property
    def run(self) -> str:
        return " ".join(f"~{key}" if value is None else f"{key}={value}" for key, value in self.words.items())


@dataclass(frozen=True)
class Published:
    """A published table, and the experiment whose settings it was made with."""

    table: str
    experiment: str
    rows: tuple[Row, ...]
    unknown: tuple[str, ...] = ()
    round: str = "last"

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Self:
        """Read the entry ``published:`` of an experiment.

        Raises:
            ValueError: If it has not the form that this module describes.
        """
        known = {"table", "experiment", "rows", "unknown", "round"}
        if not isinstance(entry, Mapping) or not {"table", "experiment", "rows"} <= set(entry) <= known:
            raise ValueError("published has other entries")
        if entry.get("round", "last") not in ROUNDS:
            raise ValueError(f"{entry['round']} is no round")
        return cls(
            table=str(entry["table"]),
            experiment=str(entry["experiment"]),
            rows=tuple(_row(each) for each in entry["rows"]),
            unknown=tuple(map(str, entry.get("unknown", ()))),
            round=entry.get("round", "last"),
        )


def _row(entry: Mapping[str, Any]) -> Row:
    words: dict[str, str | None] = {}
    for text in str(entry[RUN]).split():
        key, equals, value = text.partition("=")
        left_out = text.startswith("~")
        if bool(equals) == left_out:
            raise ValueError(f"{entry} is no row")
        words[key.removeprefix("~")] = None if left_out else value
    if len(entry) < 2:
        raise ValueError(f"{entry} is no row")
    return Row(
        words=words,
        accuracies={str(head): Accuracy.read(value) for head, value in entry.items() if head != RUN},
    )


def is_published(value: object) -> bool:
    """Return whether a value is allowed for the setting ``published``."""
    if value is None:
        return True
    try:
        Published.read(value)  # type: ignore[arg-type]  # anything may stand in a YAML file
    except (ValueError, TypeError, KeyError):
        return False
    return True
