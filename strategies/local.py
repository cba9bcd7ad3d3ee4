"""Local training only: the "standalone" (FedWon) or "SingleSet" (FedBN) row of every table."""

from dataclasses import replace

from flwr.app import ArrayRecord
from torch import nn

from fedsim.aggregation import Mean
from fedsim.methods.training import ServerTraining

from .fedavg import FedAvg


class Local(FedAvg):
    """Everything is personal: messages carry no arrays in either direction, and each client goes on with its own model.

    All clients start from the same weights, as in the other methods, so that only communication differs. The setting
    ``aggregation`` has no effect.
    """

    personal_modules = (nn.Module,)

    def __init__(self, model: nn.Module, training: ServerTraining | None = None) -> None:
        super().__init__(model, replace(training or ServerTraining(), weighting="examples", aggregation=Mean()))

    def arrays_to_train(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return an empty record."""
        return ArrayRecord()
