"""What devices can afford, and the densities that this leaves them."""

from collections.abc import Callable, Sequence

from fedsim.core.errors import UserError
from fedsim.cost.device_classes import DeviceClass, Needs
from fedsim.cost.workload import CostTracker, Workload

HALVINGS = 30
"""Of the range of densities; a density is then known to nine digits."""
Plan = Callable[[float, float], Sequence[Workload]]
"""What rounds may be like for a device of the second density, where the server keeps the first."""


class Budget:
    """The limits of each class of devices, on what the one with the most images needs in a round of plain training."""

    def __init__(self, costs: CostTracker) -> None:
        self.costs = costs

    def check(self, planned: Sequence[Workload], remedy: str) -> None:
        """Errors: ``UserError`` naming the first limit that is exceeded and what would be needed."""
        for each in self.costs.classes:
            each.check(self.costs.most(planned, each.clients), remedy)

    def densities(self, plan: Plan) -> list[float]:
        """The largest that each class can afford. The server keeps the largest of them, and of that the others a part.

        Errors: ``UserError`` without a limit, or if nothing fits.
        """
        classes = self.costs.classes
        if not any(each.limits for each in classes):
            raise UserError(
                "strategy.density=null is not possible without a budget: choose a number, or budget.memory_mb or "
                "budget.flops."
            )

        def densest(each: DeviceClass, plan_of: Callable[[float], Sequence[Workload]]) -> float:
            return _densest(each, lambda density: self.costs.most(plan_of(density), each.clients))

        alone = [densest(each, lambda density: plan(density, density)) for each in classes]
        whole = max(alone)
        return [
            whole if density == whole else min(whole, densest(each, lambda part: plan(whole, part)))
            for each, density in zip(classes, alone, strict=True)
        ]


def _densest(each: DeviceClass, needs: Callable[[float], Needs]) -> float:
    """The largest density whose ``needs`` the class can afford. Errors: ``UserError`` if there is none."""
    if each.exceeded(needs(1.0)) is None:
        return 1.0
    low, high, found, sparsest = 0.0, 1.0, None, None
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        try:
            needed = needs(middle)
        except UserError:  # fewer weights than layers
            low = middle
            continue
        if each.exceeded(needed) is None:
            low = found = middle
        else:
            high, sparsest = middle, needed
    if found is None:
        assert sparsest is not None
        each.check(sparsest)
    assert found is not None
    return found
