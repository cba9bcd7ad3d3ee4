"""The model of a federation at one moment: what the server has, and what the clients keep for themselves.

The *global model* of a method with a personal part is the shared part completed by the average, over all clients and
unweighted, of their personal parts: FedBN's shared weights with averaged BatchNorm, and for local training the average
of all models. Reading those parts is measuring: it is no message of the method and not counted in its bytes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from flwr.app import ArrayRecord, RecordDict

from fedsim.aggregation import RunningAverage
from fedsim.client.state import ClientState
from fedsim.messages.arrays import to_tensors

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class FederatedModel:
    """All that makes up every client's model."""

    initial: Tensors
    """The model before training, on which every client's part is based until it has trained"""
    arrays: ArrayRecord
    """What the server has"""
    personal: frozenset[str]
    """The entries that clients keep"""
    states: Mapping[int, RecordDict] | None
    """What each client keeps; ``None`` where devices do not tell"""

    @property
    def known(self) -> bool:
        """Whether there is a global model: not where devices keep a part of it to themselves."""
        return self.states is not None or not self.personal

    @cached_property
    def complete(self) -> Tensors:
        """The global model; a client that has not trained yet counts with the initial values."""
        average: Tensors = {}
        if self.personal:
            running = RunningAverage()
            for _, part in self.personal_parts():
                running.add(part, 1.0)
            average = running.result()
        return {**self.initial, **average, **to_tensors(self.arrays)}

    def personal_parts(self) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
        """Yield each client and what it has of its own."""
        for client, state in (self.states or {}).items():
            kept = ClientState(state).personal
            yield client, {name: kept.get(name, self.initial[name]) for name in self.initial if name in self.personal}

    def personal_entry(self, name: str) -> Iterator[torch.Tensor]:
        """Yield one entry of each client's own part."""
        for state in (self.states or {}).values():
            yield ClientState(state).personal.get(name, self.initial[name])

    def ages(self, round: int) -> list[int]:
        """Return for how many rounds each client's part has not been trained, while the shared part went on."""
        return [round - ClientState(state).trained for state in (self.states or {}).values()] if self.personal else []
