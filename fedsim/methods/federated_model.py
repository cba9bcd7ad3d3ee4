"""The model of a federation at one time: the server's part and the clients' personal parts.

The *global model* of a method with a personal part is the shared part completed by the unweighted average of the
personal parts over all clients: FedBN's shared weights with averaged BatchNorm, and for local training the average of
all models. Reading the personal parts serves measurement only: it is not a message of the method and not counted in its
bytes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from flwr.app import ArrayRecord, RecordDict

from fedsim.aggregation import RunningAverage
from fedsim.messages.arrays import to_tensors
from fedsim.methods.client_state import ClientState

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class FederatedModel:
    """The shared part, and the personal parts of all clients."""

    initial: Tensors
    """The model before training, from which a client's personal part starts."""
    arrays: ArrayRecord
    """The entries on the server."""
    personal: frozenset[str]
    """The names of the personal entries."""
    states: Mapping[int, RecordDict] | None
    """The client states; ``None`` if devices do not send them."""

    @property
    def known(self) -> bool:
        """Whether there is a global model; false if devices do not send their personal parts."""
        return self.states is not None or not self.personal

    @cached_property
    def complete(self) -> Tensors:
        """The global model; a client that has not trained yet is averaged with the initial values."""
        average: Tensors = {}
        if self.personal:
            running = RunningAverage()
            for _, part in self.personal_parts():
                running.add(part, 1.0)
            average = running.result()
        return {**self.initial, **average, **to_tensors(self.arrays)}

    def personal_parts(self) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
        """Yield each client and its personal part."""
        for client, state in (self.states or {}).items():
            kept = ClientState(state).personal
            yield client, {name: kept.get(name, self.initial[name]) for name in self.initial if name in self.personal}

    def ages(self, round: int) -> list[int]:
        """Return, for each client, the number of rounds since its personal part was last trained."""
        return [round - ClientState(state).trained for state in (self.states or {}).values()] if self.personal else []
