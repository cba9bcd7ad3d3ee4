"""Any of Flower's own strategies: ``strategy=flower/FedTrimmedAvg``, ``flower/FedYogi``, and so on."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from torch import nn

from fedsim.aggregation import Aggregation, RunningAverage
from fedsim.aggregation.flower_adapter import Collected
from fedsim.core.errors import UserError
from fedsim.engines.grid import SERVER_NODE
from fedsim.messages.arrays import to_record
from fedsim.messages.schema import METRICS, metrics_of
from fedsim.methods.training import ServerTraining

from .fedavg import FedAvg

OURS = ("fraction_train", "fraction_evaluate", "min_train_nodes", "min_evaluate_nodes", "min_available_nodes")
"""Arguments that the simulator sets, because it draws the cohorts."""
KEYS = ("weighted_by_key", "arrayrecord_key", "configrecord_key", "train_metrics_aggr_fn", "evaluate_metrics_aggr_fn")
"""Arguments that name records in messages or are functions, which cannot be settings."""
ELSEWHERE = {
    "FedProx": "strategy=fedprox, whose clients know the proximal term",
    "FedXgbBagging": "another strategy: trees are no network",
    "FedXgbCyclic": "another strategy: trees are no network",
}
SERVER_OPTIMIZERS = (flower.FedAvgM, flower.FedAdagrad, flower.FedAdam, flower.FedYogi, flower.QFedAvg)
"""Strategies that take a step from the model that was sent: they see parameters only."""
KEPT, FORMS = "flower/", "flower-forms"
"""Names of records in a checkpoint: the arrays that a strategy stores, and the container types they are stored in."""
LOSS = "train_loss"
"""The name under which ``QFedAvg`` looks for a client's training loss."""


def flower_strategies() -> list[str]:
    """Return the names of Flower's strategies that can be used here."""
    classes = {name: getattr(flower, name) for name in dir(flower)}
    return [
        name
        for name, each in classes.items()
        if inspect.isclass(each) and issubclass(each, flower.FedAvg) and name not in ELSEWHERE
    ]


class FlowerStrategy(FedAvg):
    """Lets a strategy of Flower make the new model; cohorts, messages and the state split are this simulator's.

    It sees the floating-point entries that are sent, flattened to vectors, with ``num-examples`` (the weight of the
    client), the client's metrics and its loss as ``train_loss``. Server optimizers (``FedAvgM``, ``FedAdam``,
    ``FedYogi``, ``FedAdagrad``, ``QFedAvg``) see parameters only, and running statistics are averaged plainly; for the
    others, such as ``FedTrimmedAvg``, statistics are entries like any other. Counters take the maximum.

    Args:
        flower: The name of a class of ``flwr.serverapp.strategy``.
        arguments: Keyword arguments of its constructor.

    Raises:
        UserError: If Flower has no such class, it cannot be used here, or its constructor does not accept the
            arguments.
    """

    uses_aggregation = False

    def __init__(
        self,
        model: nn.Module,
        training: ServerTraining | None = None,
        *,
        flower: str,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model, training)
        self.inner = _make(flower, arguments or {})
        shown = self.parameters if isinstance(self.inner, SERVER_OPTIMIZERS) else None
        self._metrics = MetricRecord()
        self.aggregation = _FlowerAggregation(self.inner, shown, lambda: self._metrics)

    def read_reply(self, reply: Message) -> None:
        """Store the client's metrics, which the strategy sees beside its arrays."""
        super().read_reply(reply)
        self._metrics = metrics_of(reply)


class _FlowerAggregation(Aggregation):
    """Passes the replies of every round to one strategy; its state between rounds is read from its attributes."""

    def __init__(
        self, inner: flower.FedAvg, shown: frozenset[str] | None, metrics_now: Callable[[], MetricRecord]
    ) -> None:
        """Wrap a strategy.

        Args:
            inner: The strategy of Flower.
            shown: Names of the entries that it sees; ``None`` for all floating-point ones.
            metrics_now: Returns the metrics of the reply that is being added.
        """
        self.inner = inner
        self.shown = shown
        self.metrics_now = metrics_now

    def start(self, server_round: int, sent: Mapping[str, torch.Tensor]) -> "_Replies":
        return _Replies(self, server_round, sent)

    def state(self) -> RecordDict:
        kept = {name: form for name, form in ((name, _form(value)) for name, value in vars(self.inner).items()) if form}
        records = {f"{KEPT}{name}": _to_record(getattr(self.inner, name)) for name in kept}
        return RecordDict({**records, FORMS: ConfigRecord({**kept})})

    def load_state(self, state: RecordDict) -> None:
        for name, form in state.config_records[FORMS].items():
            setattr(self.inner, name, _from_record(state.array_records[f"{KEPT}{name}"], str(form)))


class _Replies:
    """The replies of one round."""

    def __init__(self, owner: _FlowerAggregation, server_round: int, sent: Mapping[str, torch.Tensor]) -> None:
        self.owner = owner
        self.sent = self._shown(sent)
        self.collected = _WithMetrics(server_round, lambda clients: self._configured(server_round), owner.metrics_now)
        self.others = RunningAverage()

    def add(self, tensors: Mapping[str, torch.Tensor], weight: float) -> None:
        shown = self._shown(tensors)
        self.collected.add(shown, weight)
        self.others.add({name: tensor for name, tensor in tensors.items() if name not in shown}, weight)

    def result(self) -> dict[str, torch.Tensor]:
        return {**self.others.result(), **self.collected.result()}

    def _shown(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return what the strategy sees, sorted: some store lists, and a checkpoint does not preserve the order."""
        shown = self.owner.shown
        floating = {name: tensor for name, tensor in sorted(tensors.items()) if tensor.is_floating_point()}
        return {name: tensor for name, tensor in floating.items() if shown is None or name in shown}

    def _configured(self, server_round: int) -> flower.FedAvg:
        """Pass the model that was sent to the strategy, which expects it at the beginning of a round; return it."""
        vectors = to_record({name: self.collected.vector(tensor) for name, tensor in self.sent.items()})
        self.owner.inner.configure_train(server_round, vectors, ConfigRecord(), _OneNode())  # type: ignore[arg-type]
        return self.owner.inner


class _WithMetrics(Collected):
    """Messages that contain the client's metrics beside its weight."""

    def __init__(
        self,
        server_round: int,
        strategy_for: Callable[[int], flower.Strategy],
        metrics_now: Callable[[], MetricRecord],
    ) -> None:
        super().__init__(server_round, strategy_for)
        self.metrics_now = metrics_now

    def message(self, floats: Mapping[str, torch.Tensor], weight: float) -> Message:
        message = super().message(floats, weight)
        metrics = self.metrics_now()
        more = {LOSS: metrics["loss"]} if "loss" in metrics else {}
        message.content[METRICS] = MetricRecord({**metrics, **more, **message.content.metric_records[METRICS]})
        return message


class _OneNode:
    """The part of a ``Grid`` that a strategy uses when it configures a round."""

    def get_node_ids(self) -> list[int]:
        return [SERVER_NODE]


def _make(name: str, arguments: Mapping[str, Any]) -> flower.FedAvg:
    if name in ELSEWHERE:
        raise UserError(f"strategy=flower/{name} is not possible: choose {ELSEWHERE[name]}.")
    if name not in flower_strategies():
        raise UserError(f"strategy=flower/{name} is not known: choose flower/NAME of {', '.join(flower_strategies())}.")
    made = getattr(flower, name)
    taken = [each for each in inspect.signature(made).parameters if each not in (*OURS, *KEYS)]
    for key, value in arguments.items():
        if key not in taken:
            allowed = f"choose from {', '.join(taken)}" if taken else "leave it out"
            raise UserError(f"strategy.arguments.{key}={value} is no argument of {name}: {allowed}.")
    ours = {"fraction_train": 1.0, "min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
    try:
        strategy: flower.FedAvg = made(**ours, **arguments)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"strategy.arguments={dict(arguments)} is not possible for {name} ({error}): choose others of "
            f"{', '.join(taken)}."
        ) from error
    return strategy


def _form(value: object) -> str | None:
    """Return the container type of an attribute that holds arrays between rounds; ``None`` for any other attribute."""
    if isinstance(value, ArrayRecord):
        return "record"
    values = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(values, list) or not values or not all(isinstance(each, np.ndarray) for each in values):
        return None
    return "dict" if isinstance(value, dict) else "list"


def _to_record(value: Any) -> ArrayRecord:
    if isinstance(value, ArrayRecord):
        return value
    named = value if isinstance(value, dict) else {str(place): each for place, each in enumerate(value)}
    return ArrayRecord({name: Array(np.asarray(each)) for name, each in named.items()})


def _from_record(record: ArrayRecord, form: str) -> Any:
    """Return the value from which ``_to_record`` made the record."""
    if form == "record":
        return record
    arrays = {name: array.numpy() for name, array in record.items()}
    return arrays if form == "dict" else [arrays[str(place)] for place in range(len(arrays))]
