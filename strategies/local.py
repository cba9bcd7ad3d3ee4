"""Local training only: the "standalone" (FedWon) or "SingleSet" (FedBN) row of every table."""

from flwr.app import ArrayRecord
from torch import nn

from fedsim.aggregation import Aggregation

from .fedavg import FedAvg


class Local(FedAvg):
    """Everything is personal: messages carry no arrays in either direction, and each client goes on with its own model.

    All clients start from the same weights, as in the other methods, so that nothing but communication differs. An
    aggregation has nothing to do here, whichever it is.
    """

    personal_modules = (nn.Module,)

    def __init__(
        self, model: nn.Module, *, fraction: float = 1.0, seed: int = 0, aggregation: Aggregation | None = None
    ) -> None:
        super().__init__(model, weighting="examples", fraction=fraction, seed=seed)

    def shared(self, arrays: ArrayRecord) -> ArrayRecord:
        return ArrayRecord()
