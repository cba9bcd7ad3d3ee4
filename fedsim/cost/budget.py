"""Budgets of devices, and the size of the network that they can afford."""

from collections.abc import Callable, Sequence

from fedsim.core.errors import UserError
from fedsim.cost.device_classes import DeviceClass, Needs
from fedsim.cost.workload import CostTracker, Workload

HALVINGS = 30
"""Number of bisections of the range of sizes; a size is then known to nine digits."""
Plan = Callable[[float, float], Sequence[Workload]]
"""Returns the possible workloads from the size of the server's network and that of the device's submodel."""


class Budget:
    """The limits of each class of devices, applied to the costs of its client with the most training images."""

    def __init__(self, costs: CostTracker) -> None:
        self.costs = costs

    def check(self, planned: Sequence[Workload], remedy: str) -> None:
        """Refuse workloads that a class cannot afford.

        Raises:
            UserError: If a limit is exceeded; the message names the first such limit and the cost.
        """
        for each in self.costs.classes:
            each.check(self.costs.most(planned, each.clients), remedy)

    def sizes(self, option: str, plan: Plan) -> list[float]:
        """Return the largest size of the network, from 0 to 1, that each class can afford.

        The server's network has the largest of these sizes, and the other classes train submodels of it.

        Args:
            option: The key of the setting that is null, for error messages.
            plan: Returns the possible workloads.

        Raises:
            UserError: If there is no limit, or a class cannot afford any size.
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
        except UserError:  # the method cannot make the network so small
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
