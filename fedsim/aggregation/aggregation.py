"""What every aggregation has in common."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from flwr.app import RecordDict

from fedsim.config.binding import instantiate
from fedsim.core.errors import UserError


class Aggregate(Protocol):
    """Takes the replies of one round, one after the other; ``RunningAverage`` is one."""

    def add(self, tensors: Mapping[str, torch.Tensor], weight: float) -> None: ...

    def result(self) -> dict[str, torch.Tensor]: ...


class Aggregation(ABC):
    """Makes an ``Aggregate`` for each round."""

    noisy: bool = False
    """Whether it adds noise for privacy; a method then refuses what would get round it (``refuse_noise``)."""

    @abstractmethod
    def start(self, server_round: int, sent: Mapping[str, torch.Tensor]) -> Aggregate:
        """For the replies to a training message that held the arrays ``sent``, in the form in which they travel."""

    def impossible(self, clients: int) -> str | None:
        """Why so few replies cannot be aggregated, as a sentence; ``None`` if they can."""
        return None

    def check(self, clients: int) -> None:
        """Errors: ``UserError`` if so many clients in each round are too few."""
        reason = self.impossible(clients)
        if reason is not None:
            raise UserError(reason)

    def metrics(self) -> dict[str, float]:
        """What there is to tell of the last round."""
        return {}

    def state(self) -> RecordDict:
        """What it keeps from round to round: nothing, in most cases."""
        return RecordDict()

    def load_state(self, state: RecordDict) -> None:  # noqa: B027  # most have nothing to take back
        """Takes back what ``state`` returned."""


def aggregation_of(options: Mapping[str, Any]) -> Aggregation:
    """What the group ``aggregation`` names. Errors: ``UserError`` for a wrong option."""
    aggregation: Aggregation = instantiate("aggregation", options)
    return aggregation
