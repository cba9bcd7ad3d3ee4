"""Checks that somebody gathers the running statistics of layers, where training does not or the server pools them."""

from collections.abc import Collection

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


def refuse_kept_statistics(kept: Collection[str], strategy: str) -> None:
    """Refuse to keep statistics on clients, for a strategy that pools them on the server.

    Raises:
        UserError: If there is an entry to keep.
    """
    if kept:
        raise UserError(
            f"strategy={strategy} pools statistics on the server, which norm.statistics=local keeps on the clients: "
            "choose norm.statistics=shared, or another strategy."
        )
