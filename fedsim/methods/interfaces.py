"""What a federated method is to the simulator: a server half and a client half.

The classes under ``strategies/`` and ``clients/`` fulfil these protocols; nothing under ``fedsim/`` knows one by name.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from torch import nn

from datasets.examples import Examples
from fedsim.cost.workload import Workload


class ServerHalf(Protocol):
    """A Flower ``Strategy`` that says which entries of the model are personal and can be saved and restored."""

    personal: frozenset[str]
    masks: Mapping[str, torch.Tensor]
    """By layer, which of its weights are kept, once that is decided; empty for a dense network."""
    parts: Mapping[float, Mapping[str, torch.Tensor]]
    """By density, the masks of devices that train a part of what is kept."""
    alike: bool
    """Whether all clients are sent the same model: not where small devices have a part of it."""
    asked_share: float
    """The share of its training images that a client is asked about before it trains, 0 for none."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]: ...

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]: ...

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]: ...

    def workload(self, client: int) -> Workload:
        """What the device of that client did in the last round, for the accounts of FLOPs and memory."""

    def planned(self, density: float | None = None) -> Sequence[Workload]:
        """What rounds may be like, as far as that is known before the first: what a budget has to allow.

        ``density`` is that of a device which has a part of what the server keeps; ``None`` for one that has all.
        """

    def keep_on_clients(self, entries: Iterable[str]) -> None:
        """Makes further entries of the model personal."""

    def state(self) -> RecordDict:
        """What the server keeps between rounds beside the model; empty for most methods."""

    def load_state(self, state: RecordDict) -> None: ...


PLAIN = ""
"""The name of the predictor whose accuracy is simply the model's."""


@dataclass(frozen=True)
class LocalTraining:
    """The settings of local training that every method has."""

    local_epochs: int
    batch_size: int
    lr: float
    momentum: float
    optimizer: str = "sgd"
    weight_decay: float = 0.0


@dataclass
class Turn:
    """What a client knows while it answers one message."""

    round: int
    generator: torch.Generator
    """Draws the batches and the augmentations; the client's own for this round."""
    config: ConfigRecord
    """What the server sent beside the arrays."""
    state: RecordDict
    """What the client keeps from message to message (Flower's ``Context.state``)."""
    sent: RecordDict = field(default_factory=RecordDict)
    """All that the server sent."""
    reply: RecordDict = field(default_factory=RecordDict)
    """For what the client sends beside the trained arrays and the metrics."""


class ClientHalf(Protocol):
    """Trains a model that holds the received and the personal part, and says what it predicts."""

    def train(self, model: nn.Module, data: Examples, turn: Turn) -> dict[str, float]:
        """Trains in place; the metrics hold at least ``num-examples``."""

    def unpack(self, arrays: Mapping[str, torch.Tensor], model: nn.Module, turn: Turn) -> Mapping[str, torch.Tensor]:
        """The entries of the model that arrived in a training message, whatever form they travelled in."""

    def pack(self, entries: Mapping[str, torch.Tensor], model: nn.Module, turn: Turn) -> Mapping[str, torch.Tensor]:
        """The form in which trained entries travel; the names stay."""

    def predict(self, model: nn.Module, images: torch.Tensor, *, own: bool) -> dict[str, torch.Tensor]:
        """Logits (N, classes): the model's under ``PLAIN``, those of the method's other predictors under their names.

        ``own`` says whether the model is one client's, the shared and its personal part, or the global one.
        """
