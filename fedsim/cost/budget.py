"""What a device can afford: ``budget.memory_mb`` and ``budget.gflops``."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fedsim.errors import UserError

Half = TypeVar("Half")
NEEDS = {"memory_mb": "device_memory_mb", "gflops": "device_gflops"}
"""The columns of ``rounds.csv`` that a budget limits."""
HALVINGS = 30
"""Of the range of densities; a density is then known to nine digits."""


class Budget:
    """Limits of what the client with the most images needs in a round of plain training; ``None`` is no limit."""

    def __init__(self, limits: Mapping[str, float | None]) -> None:
        self.limits = {name: limit for name, limit in limits.items() if limit is not None}

    def exceeded(self, needs: Mapping[str, float]) -> str | None:
        """The first limit that is exceeded."""
        return next((name for name, limit in self.limits.items() if needs[NEEDS[name]] > limit), None)

    def check(self, needs: Mapping[str, float], remedy: str = "") -> None:
        """Errors: ``UserError`` naming the first limit that is exceeded and what would be needed."""
        name = self.exceeded(needs)
        if name is not None:
            raise UserError(
                f"budget.{name}={self.limits[name]:g} is not possible: a device needs {needs[NEEDS[name]]:.4g}; "
                f"choose more, a smaller model or batch_size{remedy and f', or {remedy}'}."
            )

    def densest(
        self, options: Mapping[str, Any], make: Callable[[Mapping[str, Any]], Half], needs: Callable[[Half], Any]
    ) -> Half:
        """The strategy with the largest ``strategy.density`` that a device can afford, where that is left open.

        ``make`` makes a strategy of its options, ``needs`` says what it would need. Errors: ``UserError`` without a
        limit, or if nothing fits.
        """
        if not self.limits:
            raise UserError(
                "strategy.density=null is not possible without a budget: choose a number, or budget.memory_mb or "
                "budget.gflops."
            )
        whole = make({**options, "density": 1.0})
        if self.exceeded(needs(whole)) is None:
            return whole
        low, high, best = 0.0, 1.0, None
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            try:
                half = make({**options, "density": middle})
            except UserError:  # fewer weights than layers
                low = middle
                continue
            if self.exceeded(needs(half)) is None:
                low, best = middle, half
            else:
                high, sparsest = middle, half
        if best is None:
            self.check(needs(sparsest))
        assert best is not None
        return best
