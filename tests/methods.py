"""Which methods are tried with every change, where a test could try them all, and which at night alone."""

from collections.abc import Iterable

import pytest
from _pytest.mark import ParameterSet

BY_DAY = frozenset({"fedavg", "fedbn", "fedloge", "fedtiny", "fraug", "scaffold", "flower/FedAdam"})
"""One of each kind: plain; with a personal part; a head; queries and masks; its own records in messages; Flower's."""


def some_by_day(methods: Iterable[str]) -> list[ParameterSet]:
    """Return the parameters of a test of every method, of which all but a few are for ``pytest -m nightly``."""
    return [pytest.param(each, marks=[] if each in BY_DAY else pytest.mark.nightly) for each in methods]
