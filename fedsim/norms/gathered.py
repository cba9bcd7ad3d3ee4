"""A check that somebody gathers the running statistics of layers that do not gather them in training."""

from torch import nn

from fedsim.core.errors import UserError
from fedsim.norms.registry import gathered_layers


def refuse_ungathered(model: nn.Module, norm: str, strategy: str) -> None:
    """Refuse a network whose running statistics would keep their initial values for the whole run.

    Raises:
        UserError: If there is a layer whose statistics the strategy has to gather.
    """
    types = gathered_layers()
    if any(isinstance(layer, types) for layer in model.modules()):
        raise UserError(
            f"norm={norm} has statistics that strategy={strategy} does not gather: choose the strategy that brings "
            "this norm with it, or norm=bn."
        )
