"""What a federated method is to the simulator: a server strategy and a local trainer.

The classes under ``strategies/`` and ``clients/`` fulfil these protocols; nothing under ``fedsim/`` knows one by name.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

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
"""The name of the predictor whose accuracy is simply the model's."""


class ServerStrategy(Protocol):
    """A Flower ``Strategy`` that declares what is personal and what travels, and can be saved and restored."""

    personal: frozenset[str]
    """The entries of the model that never leave a client."""
    reply_records: Mapping[str, RecordCheck]
    """The records that replies to training may have beside ``arrays`` and ``metrics``, each with its check."""
    queries: Mapping[str, RecordCheck]
    """What the method asks its clients before training, each with the check of the reply's arrays."""
    sends_one_model: bool
    """Whether all clients are sent the same model: not where small devices have a part of it."""
    own_models: bool
    """Whether clients are evaluated with more of their own than the entries that are personal."""
    queried_share: float
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
        """Return what the device of that client did in the last round, for the accounts of FLOPs and memory."""

    def planned(self, size: float | None = None) -> Sequence[Workload]:
        """Return what rounds may be like, as far as that is known before the first: what a budget has to allow.

        ``size`` is that of a device which trains a part of what the server keeps; ``None`` for one that trains all.
        """

    def keep_on_clients(self, entries: Iterable[str]) -> None:
        """Make further entries of the model personal."""

    def state(self) -> RecordDict:
        """Return what the server keeps between rounds beside the model; empty for most methods."""

    def load_state(self, state: RecordDict) -> None:
        """Take back what ``state`` returned."""


class Resizable(Protocol):
    """A method with an option, from 0 to 1, that says how much of the network devices train.

    Where the option is null the budget decides it: the server keeps what the largest class of devices affords, and the
    clients of the others are in ``ServerTraining.client_sizes``.
    """

    size_option: ClassVar[str]


@runtime_checkable
class Exporting(Protocol):
    """A strategy that has further files to write when a run ends."""

    def export(self, folder: Path, model: Tensors) -> None:
        """Write them beside ``model.safetensors``, which holds ``model``."""


@dataclass
class ClientContext:
    """What a client knows while it works on one message."""

    round: int = 0
    config: ConfigRecord = field(default_factory=ConfigRecord)
    """What the server sent beside the arrays."""
    sent: RecordDict = field(default_factory=RecordDict)
    """All that the server sent."""
    cached: Mapping[str, ArrayRecord] = field(default_factory=dict)
    """The records that the server has sent once, with this message or an earlier one."""
    state: MutableMapping[str, Record] = field(default_factory=dict)
    """What the method keeps on this client from message to message."""
    own: bool = True
    """Whether the model is one client's, the shared and its personal part, or the global one."""
    scratch: dict[str, Any] = field(default_factory=dict)
    """For what the hooks of a method hand to each other; gone when the message is answered."""


@dataclass(kw_only=True)
class TrainingContext(ClientContext):
    """What a client knows while it trains."""

    data: Examples
    """Its training images."""
    generator: torch.Generator
    """Draws the batches and the augmentations; the client's own for this round."""
    client: int = 0
    on_device: bool = False
    """Whether this is a real device, whose memory is its own and small"""
    steps: int = 0
    """How many steps of the optimizer this round's training has, in all its parts."""
    step: int = 0
    """How many of them are done."""
    batch: tuple[torch.Tensor, torch.Tensor] | None = None
    """The images (N, channels, height, width) and labels (N,) of the step that is being made."""
    reply: RecordDict = field(default_factory=RecordDict)
    """For the records that the method declares as ``reply_records``."""


@dataclass(kw_only=True)
class QueryContext(ClientContext):
    """What a client has to answer a query of its method."""

    model: nn.Module
    arrays: Tensors
    """Those of the message."""
    data: Examples
    """Its training images."""
    generator_for: Callable[[str], torch.Generator]
    """A generator of this client for a purpose, the same in every message."""
    load: Callable[[Tensors], None]
    """Loads entries into the model, completed by what the client keeps."""
    images: Callable[[Examples], Iterator[torch.Tensor]]
    """Batches of images as they are at evaluation."""
    score: Callable[[Examples], Metrics]
    """``num-examples``, ``loss`` and ``correct`` of the loaded model."""


@dataclass(frozen=True)
class Answer:
    """A client's answer to a query: at least ``num-examples`` among the metrics."""

    metrics: Metrics
    arrays: Tensors = field(default_factory=dict)


QueryHandler = Callable[[QueryContext], Answer]


class LocalTrainer(Protocol):
    """Trains a model that holds the received and the personal part, and says what it predicts.

    One object serves all clients, one message after the other: what belongs to one of them is in its context.
    """

    queries: Mapping[str, QueryHandler]
    """How the queries that the server strategy declares are answered."""

    def train(self, model: nn.Module, context: TrainingContext) -> dict[str, float]:
        """Train in place; the metrics hold at least ``num-examples``."""

    def unpack(self, arrays: Tensors, model: nn.Module, context: ClientContext) -> Tensors:
        """Return the entries of the model that arrived, for training or evaluation, whatever form they travelled in."""

    def pack(self, entries: Tensors, model: nn.Module, context: TrainingContext) -> Tensors:
        """Return the form in which trained entries travel; the names stay."""

    def predict(self, model: nn.Module, images: torch.Tensor, context: ClientContext) -> dict[str, torch.Tensor]:
        """Return logits (N, classes): the model's under ``PLAIN``, those of further predictors under their names."""
