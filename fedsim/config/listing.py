"""The choices of a group with one line each: ``python run.py strategy=list``, ``norm=list``, and so on.

Nothing is loaded for that but the files of ``configs/``, docstrings, and, for methods, what ``docs/strategies.csv``
says of their messages. That file is made by ``fedsim/app/catalogue.py``.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Self

from fedsim.config.reference import choices, default_of, description, groups, letters
from fedsim.core.checkout import ROOT

LIST = "list"
"""The value that asks for a list in place of a choice."""
TRAFFIC = ROOT / "docs" / "strategies.csv"
METHODS = "strategy"
"""The group whose choices send messages."""
_SENTENCE_END = re.compile(r"(?<!\bal\.)(?<=[.!?])\s+")
"""The space behind a sentence, which *et al.* does not end"""
_BETWEEN = "; "


@dataclass(frozen=True)
class Traffic:
    """What the messages of a method hold, as ``docs/strategies.csv`` has it."""

    strategy: str
    shared: str
    """``model``, or nothing where no entry of the model travels"""
    down: tuple[str, ...]
    """Beside the model, in every round"""
    up: tuple[str, ...]
    sometimes: tuple[str, ...]
    """What replies have in some rounds only"""
    once: tuple[str, ...]
    """What a client is sent once and keeps"""
    queries: tuple[str, ...]
    """What clients are asked before the first training"""
    stays: tuple[str, ...]
    """Module types of the model, and records of the method, that never leave a client"""
    bytes_down: int
    bytes_up: int
    first_down: int
    """More than in other rounds, in the first"""
    first_up: int

    @classmethod
    def read(cls, row: Mapping[str, str]) -> Self:
        found: dict[str, Any] = {}
        for each in fields(cls):
            text = row[each.name]
            listed = tuple(text.split(_BETWEEN)) if text else ()
            found[each.name] = int(text) if each.type is int else text if each.type is str else listed
        return cls(**found)

    def written(self) -> dict[str, str | int]:
        """Return the row of the CSV file."""
        return {
            name: _BETWEEN.join(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
        }

    @property
    def travels(self) -> str:
        """What travels, in words: ``model, control both ways``."""
        both = [name for name in self.down if name in self.up]
        parts = {
            "both ways": both,
            "down": [name for name in self.down if name not in both],
            "up": [name for name in self.up if name not in both],
            "up in some rounds": self.sometimes,
            "down once": self.once,
            "asked before": self.queries,
        }
        named = [f"{', '.join(names)} {when}" for when, names in parts.items() if names]
        return _BETWEEN.join([self.shared, *named] if self.shared else named) or "nothing"

    @property
    def kept(self) -> str:
        return ", ".join(self.stays) or "nothing"


def asked_for(overrides: Sequence[str]) -> list[str]:
    """Return the groups of whose choices the words ask for a list: ``strategy`` for ``strategy=list``."""
    words = [word.lstrip("+").partition("=") for word in overrides]
    return [key for key, _, value in words if value == LIST and key in groups()]


def read_traffic(path: Path = TRAFFIC) -> dict[str, Traffic]:
    """Return by method what its messages hold; nothing where the file is not there."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row["strategy"]: Traffic.read(row) for row in csv.DictReader(file)}


def listing(group: str) -> str:
    """Return the choices of a group as text, with a line for each, and for methods one on what travels."""
    told = dict(described(group))
    traffic = read_traffic() if group == METHODS else {}
    width = max(map(len, told))
    lines = [f"{group}= ({default_of(group)} by default)"]
    for choice, what in told.items():
        lines.append(f"  {choice:<{width}}  {what}")
        if choice in traffic:
            mine = traffic[choice]
            lines.append(f"  {'':<{width}}  travels: {mine.travels}. stays: {mine.kept}.")
    return "\n".join(lines)


def described(group: str) -> Iterator[tuple[str, str]]:
    """Yield each choice of a group with the first sentence about it, in which the paper and its year stand."""
    for choice, path in choices(group).items():
        yield choice, _SENTENCE_END.split(description(group, choice, path))[0]


@cache
def paper_name(strategy: str) -> str:
    """Return the name that a method has in its paper, as ``SCAFFOLD``; the choice itself where its text has none."""
    path = choices(METHODS).get(strategy)
    name = "" if path is None else description(METHODS, strategy, path).partition(" (")[0]
    return name if letters(name) == letters(strategy) else strategy
