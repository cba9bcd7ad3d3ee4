"""The interface of all aggregations."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from flwr.app import RecordDict

from fedsim.config.binding import instantiate
from fedsim.core.errors import UserError


class Aggregate(Protocol):
    """Aggregates the replies of one round, which are added one after the other, such as ``RunningAverage``."""

    def add(self, tensors: Mapping[str, torch.Tensor], weight: float) -> None: ...

    def result(self) -> dict[str, torch.Tensor]: ...


class Aggregation(ABC):
    """Makes an ``Aggregate`` for each round."""

    noisy: bool = False
    """Whether it adds noise for privacy; methods refuse this if replies have records without noise (``refuse_noise``).
    """

    @abstractmethod
    def start(self, server_round: int, sent: Mapping[str, torch.Tensor]) -> Aggregate:
        """Return the aggregate of a round.

        Args:
            server_round: The round.
            sent: The arrays of the training message, in the form in which they were sent.
        """

    def impossible(self, clients: int) -> str | None:
        """Return a sentence on why replies of so few clients cannot be aggregated; ``None`` if they can."""
        return None

    def check(self, clients: int) -> None:
        """Refuse cohorts that are too small.

        Raises:
            UserError: If ``clients`` clients in each round are too few.
        """
        reason = self.impossible(clients)
        if reason is not None:
            raise UserError(reason)

    def metrics(self) -> dict[str, float]:
        """Return metrics of the last round for ``rounds.csv``."""
        return {}

    def state(self) -> RecordDict:
        """Return the state between rounds, which is empty for most aggregations."""
        return RecordDict()

    def load_state(self, state: RecordDict) -> None:  # noqa: B027  # most have no state
        """Restore what ``state`` returned."""


def aggregation_of(options: Mapping[str, Any]) -> Aggregation:
    """Return the aggregation that the group ``aggregation`` names.

    Raises:
        UserError: If an option is wrong.
    """
    aggregation: Aggregation = instantiate("aggregation", options)
    return aggregation
