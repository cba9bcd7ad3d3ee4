"""Which methods are tried with every change, where a test could try them all, and which at night alone."""

from collections.abc import Container, Iterable

import pytest
from _pytest.mark import ParameterSet

BY_DAY = frozenset({"fedbn", "fedtiny", "scaffold", "flower/FedAdam"})
"""One of each kind: with a personal part; queries and masks; its own records in messages; Flower's."""


def some_by_day(choices: Iterable[str], by_day: Container[str] = BY_DAY) -> list[ParameterSet]:
    """Return the parameters of a test of every choice, of which all but a few are for ``pytest -m nightly``."""
    return [pytest.param(each, marks=[] if each in by_day else pytest.mark.nightly) for each in choices]
