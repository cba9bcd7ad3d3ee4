"""Paired t-tests of methods against the best one, over the seeds they share: which differences a few seeds can show."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import ttest_rel

LEVEL = 0.05
FEWEST = 3
"""Shared seeds below which there is no test: two differences hardly determine a deviation."""


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


def best_of(values: Mapping[str, Mapping[int, float]]) -> str:
    """Return the method with the highest mean over its seeds."""
    return max(values, key=lambda method: float(np.mean(list(values[method].values()))))


def against_best(values: Mapping[str, Mapping[int, float]]) -> list[Comparison]:
    """Compare every other method with the best, where they share at least three seeds.

    ``values`` is by method and seed.
    """
    best = best_of(values)
    found = []
    for method, by_seed in values.items():
        shared = sorted(by_seed.keys() & values[best].keys())
        if method == best or len(shared) < FEWEST:
            continue
        differences = np.array([by_seed[seed] - values[best][seed] for seed in shared])
        mean, deviation = float(differences.mean()), float(differences.std(ddof=1))
        if deviation == 0:
            effect, p = (0.0, 1.0) if mean == 0 else (float(np.copysign(np.inf, mean)), 0.0)
        else:
            test = ttest_rel([by_seed[seed] for seed in shared], [values[best][seed] for seed in shared])
            effect, p = mean / deviation, float(test.pvalue)
        found.append(Comparison(method, mean, effect, p, len(shared)))
    return found


def sentences(values: Mapping[str, Mapping[int, float]]) -> list[str]:
    """Return lines about which methods do not differ significantly from the best one.

    There are none where there are too few seeds or one method. ``values`` are accuracies from 0 to 1; differences are
    shown in percentage points.
    """
    comparisons = against_best(values)
    if not comparisons:
        return []
    best, alike = best_of(values), [each for each in comparisons if not each.told_apart]
    if not alike:
        return [f"{best} has the highest mean; every other is told apart from it (paired t-tests, p < {LEVEL:g})"]
    return [
        f"{best} has the highest mean; not told apart from it (paired t-tests, p ≥ {LEVEL:g}):",
        *(
            f"  {each.method}: {100 * each.difference:+.1f} points, d = {each.effect:.1f}, p = {each.p:.2f}, "
            f"{each.seeds} seeds"
            for each in alike
        ),
    ]
