"""Paired t-tests of methods against the best one, over the seeds they share: which differences a few seeds can show."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

LEVEL = 0.05
FEWEST = 3
"""Shared seeds below which there is no test: two differences hardly determine a deviation."""
DIGITS = 9
NO_TEST = f"no test of which rows the seeds can tell apart: they share fewer than {FEWEST}"


@dataclass(frozen=True)
class Comparison:
    """One method against the best one."""

    method: str
    difference: float
    """Mean over shared seeds of its values minus the best method's"""
    effect: float
    """That difference in standard deviations of the paired differences (Cohen's d_z). If these are all equal it is
    infinite, or 0 where they are zero"""
    p: float
    """Two-sided p value of the paired t-test, not corrected for the number of methods"""
    seeds: int

    @property
    def told_apart(self) -> bool:
        return self.p < LEVEL


def compare(method: str, values: Mapping[int, float], reference: Mapping[int, float]) -> Comparison | None:
    """Compare the values of a method, by seed, with those of another; ``None`` for fewer than three shared seeds."""
    shared = sorted(values.keys() & reference.keys())
    if len(shared) < FEWEST:
        return None
    # Round-off is no difference, and would be one without any deviation.
    differences = np.array([values[seed] - reference[seed] for seed in shared]).round(DIGITS)
    mean, deviation = float(differences.mean()), float(differences.std(ddof=1))
    if deviation == 0:
        effect, p = (0.0, 1.0) if mean == 0 else (float(np.copysign(np.inf, mean)), 0.0)
    else:
        from scipy.stats import ttest_1samp  # takes half a second to load, and a page of one run needs no test

        test = ttest_1samp(differences, 0)
        effect, p = mean / deviation, float(test.pvalue)
    return Comparison(method, mean, effect, p, len(shared))


def against_best(values: Mapping[str, Mapping[int, float]]) -> tuple[str, list[Comparison]]:
    """Return the method with the highest mean, and compare the others with it where they share at least three seeds.

    A method with fewer seeds is not the best one if any other has three. ``values`` is by method and seed.
    """
    tested = {method: by_seed for method, by_seed in values.items() if len(by_seed) >= FEWEST} or values
    best = max(tested, key=lambda method: float(np.mean(list(tested[method].values()))))
    found = [compare(method, by_seed, values[best]) for method, by_seed in values.items() if method != best]
    return best, [each for each in found if each is not None]


def all_pairs(values: Mapping[str, Mapping[int, float]]) -> pd.DataFrame:
    """Return a row for each pair of methods that share three seeds: difference, effect, p value, n, told apart.

    A difference is the mean of ``method`` minus ``other``. p values are not corrected for the number of pairs.
    """
    rows = []
    for method, other in combinations(values, 2):
        found = compare(method, values[method], values[other])
        if found is not None:
            rows.append((method, other, found.difference, found.effect, found.p, found.seeds, found.told_apart))
    return pd.DataFrame(rows, columns=["method", "other", "difference", "effect", "p", "n", "told_apart"])


def sentences(values: Mapping[str, Mapping[int, float]], *, percent: bool = True, lower: bool = False) -> list[str]:
    """Return lines about which methods do not differ significantly from the best one, and which were not tested.

    There are none for one method.

    Args:
        values: By method and seed.
        percent: Whether they are accuracies from 0 to 1, whose differences are shown in percentage points.
        lower: Whether the best one is the lowest.
    """
    if len(values) < 2:
        return []
    if lower:
        values = {method: {seed: -value for seed, value in mine.items()} for method, mine in values.items()}
    best, comparisons = against_best(values)
    if not comparisons:
        return [NO_TEST]
    untested = values.keys() - {best, *(each.method for each in comparisons)}
    few = [f"  not tested, since they share fewer than {FEWEST} seeds with it: {', '.join(sorted(untested))}"]
    head = f"{best} has the {'lowest' if lower else 'highest'} mean{' of those tested' if untested else ''}"
    alike = [each for each in comparisons if not each.told_apart]
    if not alike:
        others = "every other one of them" if untested else "every other"
        return [f"{head}; {others} is told apart from it (paired t-tests, p < {LEVEL:g})", *(few if untested else [])]
    sign, scale, form = -1 if lower else 1, 100 if percent else 1, ".1f" if percent else ".3g"
    return [
        f"{head}; not told apart from it (paired t-tests, p ≥ {LEVEL:g}):",
        *(
            f"  {each.method}: {sign * scale * each.difference + 0.0:+{form}}{' points' if percent else ''}, "
            f"d = {sign * each.effect + 0.0:.1f}, p = {each.p:.2f}, {each.seeds} seeds"
            for each in alike
        ),
        *(few if untested else []),
    ]
