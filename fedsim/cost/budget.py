"""What devices can afford, and how much of the network that leaves them."""

from collections.abc import Callable, Sequence

from fedsim.core.errors import UserError
from fedsim.cost.device_classes import DeviceClass, Needs
from fedsim.cost.workload import CostTracker, Workload

HALVINGS = 30
"""Of the range of sizes; a size is then known to nine digits."""
Plan = Callable[[float, float], Sequence[Workload]]
"""What rounds may be like for a device of the second size, where the server keeps the first."""


class Budget:
    """The limits of each class of devices, on what the one with the most images needs in a round of plain training."""

    def __init__(self, costs: CostTracker) -> None:
        self.costs = costs

    def check(self, planned: Sequence[Workload], remedy: str) -> None:
        """Refuse what a class cannot afford.

        Raises:
            UserError: Naming the first limit that is exceeded and what would be needed.
        """
        for each in self.costs.classes:
            each.check(self.costs.most(planned, each.clients), remedy)

    def sizes(self, option: str, plan: Plan) -> list[float]:
        """Return the largest size of the network, from 0 to 1, that each class can afford.

        The server keeps the largest of them, and of that the others train a part. ``option`` is the key of the setting
        that is left open.

        Raises:
            UserError: Without a limit, or if nothing fits.
        """
        classes = self.costs.classes
        if not any(each.limits for each in classes):
            raise UserError(
                f"{option}=null is not possible without a budget: choose a number, or budget.memory_mb or budget.flops."
            )

        def largest(each: DeviceClass, plan_of: Callable[[float], Sequence[Workload]]) -> float:
            return _largest(each, lambda size: self.costs.most(plan_of(size), each.clients))

        alone = [largest(each, lambda size: plan(size, size)) for each in classes]
        whole = max(alone)
        return [
            whole if size == whole else min(whole, largest(each, lambda part: plan(whole, part)))
            for each, size in zip(classes, alone, strict=True)
        ]


def _largest(each: DeviceClass, needs: Callable[[float], Needs]) -> float:
    """Return the largest size whose ``needs`` the class can afford.

    Raises:
        UserError: If there is none.
    """
    if each.exceeded(needs(1.0)) is None:
        return 1.0
    low, high, found, smallest = 0.0, 1.0, None, None
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        try:
            needed = needs(middle)
        except UserError:  # smaller than the method can make it
            low = middle
            continue
        if each.exceeded(needed) is None:
            low = found = middle
        else:
            high, smallest = middle, needed
    if found is None:
        assert smallest is not None
        each.check(smallest)
    assert found is not None
    return found
