"""All methods, what makes each do in three rounds all that it does, and which are tried with every change."""

from collections.abc import Container, Iterable, Mapping

import pytest
from _pytest.mark import ParameterSet

from fedsim.core.checkout import ROOT

METHODS = [*sorted(path.stem for path in (ROOT / "configs" / "strategy").glob("*.yaml")), "flower/FedAdam"]
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "creff": ("strategy.match_steps=3", "strategy.retrain_epochs=2"),
    "feddst": ("strategy.density=0.2", "strategy.interval=1", "strategy.stop_round=3", "strategy.adjust_after=0.3"),
    "fedloge": ("head.steps=5",),
    "fedrep": ("strategy.head_epochs=1",),
    "fedtiny": ("strategy.candidates=2", "strategy.blocks=3", "strategy.interval=1", "strategy.stop_round=4"),
    "fraug": ("strategy.latent=8", "strategy.generator_norm=local", "momentum=0.5"),
    # Whoever is right about an image prunes.
    "lotteryfl": ("strategy.accuracy=0",),
    "pruned": ("strategy.criterion=snip",),
    # In the third round weights are replaced by what clients have added up since the first, also over a stop.
    "prunefl": ("strategy.interval=3", "strategy.stop_round=4"),
}
"""What makes a method do, in three rounds, all that it ever does."""
BY_DAY = frozenset({"fedbn", "fedtiny", "scaffold", "flower/FedAdam"})
"""One of each kind: with a personal part; queries and masks; its own records in messages; Flower's."""


def some_by_day(choices: Iterable[str], by_day: Container[str] = BY_DAY) -> list[ParameterSet]:
    """Return the parameters of a test of every choice, of which all but a few are for ``pytest -m nightly``."""
    return [pytest.param(each, marks=[] if each in by_day else pytest.mark.nightly) for each in choices]
