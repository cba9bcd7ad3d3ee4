"""Protocols of the two parts of a federated method: a server strategy and a local trainer.

The classes in ``strategies/`` and ``clients/`` implement these protocols; no module in ``fedsim/`` refers to one of
them by name.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from torch import nn

from datasets.examples import Examples
from fedsim.cost.workload import Workload
from fedsim.methods.reply_records import RecordCheck

Record = ArrayRecord | MetricRecord | ConfigRecord
Tensors = Mapping[str, torch.Tensor]
Metrics = Mapping[str, float | list[int] | list[float]]
PLAIN = ""
"""The name of the default predictor, the model itself."""


class ServerStrategy(Protocol):
    """A Flower ``Strategy`` that declares which entries are personal, and that can be saved and restored."""

    personal: frozenset[str]
    """The entries of the model that never leave a client."""
    reply_records: Mapping[str, RecordCheck]
    """The records that replies to training may have beside ``arrays`` and ``metrics``, each with its check."""
    queries: Mapping[str, RecordCheck]
    """The queries that the method sends to clients beside training, each with the check of the reply's arrays."""
    sends_one_model: bool
    """Whether all clients are sent the same model; false if small devices train a submodel."""
    own_models: bool
    """Whether clients are evaluated with more of their own than the entries that are personal."""
    gathers_statistics: bool
    """Whether the strategy gathers the running statistics of layers that do not gather them in training."""
    queried_share: float
    """The share of a client's training images that the queries before training use; 0 for none."""
    pooled: bool
    """Whether the training images of all clients have to be in one place."""
    depends_on_rounds: str
    """An option, as ``KEY=VALUE``, by which a round is another one if the run has more rounds; empty if none is."""

    @property
    def added_up_by(self) -> str | None:
        """The weighting by which replies may be added up where they are made; ``None`` if they may not."""

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
        """Return the work of that client's device in the last round, from which FLOPs and memory are computed."""

    def planned(self, size: float | None = None) -> Sequence[Workload]:
        """Return the possible workloads of rounds, as far as known before the first; a budget must allow all of them.

        Args:
            size: Size of the submodel that the device trains; ``None`` for the whole network of the server.
        """

    def keep_on_clients(self, entries: Iterable[str]) -> None:
        """Declare further entries of the model as personal."""

    def state(self) -> RecordDict:
        """Return the server's state between rounds beside the model; empty for most methods."""

    def load_state(self, state: RecordDict) -> None:
        """Restore what ``state`` returned."""


@runtime_checkable
class Exporting(Protocol):
    """A strategy that writes further files at the end of a run."""

    def export(self, folder: Path, model: Tensors) -> None:
        """Write the files into ``folder``, next to ``model.safetensors``, which holds ``model``."""


@dataclass
class ClientContext:
    """The data that is available to a client while it processes one message."""

    round: int = 0
    config: ConfigRecord = field(default_factory=ConfigRecord)
    """The config of the message."""
    sent: RecordDict = field(default_factory=RecordDict)
    """The whole content of the message."""
    cached: Mapping[str, ArrayRecord] = field(default_factory=dict)
    """The cached broadcasts, received with this message or an earlier one."""
    state: MutableMapping[str, Record] = field(default_factory=dict)
    """The method's part of the client state, stored between messages."""
    own: bool = True
    """Whether the model is a client's own (shared and personal part); false for the global model."""
    scratch: dict[str, Any] = field(default_factory=dict)
    """Values that the hooks of a method pass to each other; discarded after the reply."""


@dataclass(kw_only=True)
class TrainingContext(ClientContext):
    """The data that is available to a client while it trains."""

    data: Examples
    """The client's training images."""
    generator: torch.Generator
    """Draws the batches and the augmentations; specific to the client and the round."""
    client: int = 0
    initial: Tensors = field(default_factory=dict)
    """The entries of the model before training, which every client builds from the same seed."""
    on_device: bool = False
    """Whether this process is a real device, with limited memory."""
    steps: int = 0
    """Number of optimizer steps of this round's training, in all its parts."""
    step: int = 0
    """Number of optimizer steps done so far."""
    batch: tuple[torch.Tensor, torch.Tensor] | None = None
    """The images (N, channels, height, width) and labels (N,) of the step that is being made."""
    reply: RecordDict = field(default_factory=RecordDict)
    """The records of the reply that the method declares as ``reply_records``."""


@dataclass(kw_only=True)
class QueryContext(ClientContext):
    """The data and functions with which a client answers a query of its method."""

    model: nn.Module
    arrays: Tensors
    """The arrays of the message."""
    data: Examples
    """The client's training images."""
    generator_for: Callable[[str], torch.Generator]
    """Returns this client's generator for a purpose, with the same seed in every message."""
    load: Callable[[Tensors], None]
    """Loads entries into the model, completed by the client's personal and cached ones."""
    images: Callable[[Examples], Iterator[torch.Tensor]]
    """Yields batches of images as in an evaluation."""
    score: Callable[[Examples], Metrics]
    """Returns ``num-examples``, ``loss`` and ``correct`` of the loaded model."""


@dataclass(frozen=True)
class Answer:
    """A client's answer to a query; the metrics contain at least ``num-examples``."""

    metrics: Metrics
    arrays: Tensors = field(default_factory=dict)


QueryHandler = Callable[[QueryContext], Answer]


class LocalTrainer(Protocol):
    """Trains a model, consisting of the received and the personal part, and predicts with it.

    One object serves all clients, one message after the other, so the data of a single client is in its context.
    """

    queries: Mapping[str, QueryHandler]
    """The handlers of the queries that the server strategy declares."""

    def train(self, model: nn.Module, context: TrainingContext) -> dict[str, float]:
        """Train the model in place; return metrics with at least ``num-examples``."""

    def unpack(self, arrays: Tensors, model: nn.Module, context: ClientContext) -> Tensors:
        """Return the entries of the model from the received arrays, for training or evaluation."""

    def pack(self, entries: Tensors, model: nn.Module, context: TrainingContext) -> Tensors:
        """Return the trained entries in the form in which they are sent, under the same names."""

    def predict(self, model: nn.Module, images: torch.Tensor, context: ClientContext) -> dict[str, torch.Tensor]:
        """Return logits (N, classes) by predictor: the model's under ``PLAIN``, others under their names."""
