"""FedAvg (McMahan et al., AISTATS 2017, arXiv 1602.05629): the server sends its model and averages what comes back.

The other methods of this folder derive from it: most differ only in the part of the state that travels.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import nn

from fedsim.aggregation import Aggregation, Mean
from fedsim.core.errors import UserError
from fedsim.core.seeding import draw_cohort
from fedsim.cost import Workload
from fedsim.messages.arrays import select, to_record, to_tensors
from fedsim.messages.schema import ARRAYS, CONFIG, EVALUATE, NUM_EXAMPLES, ROUND, TRAIN, arrays_of, metrics_of, number
from fedsim.methods.state_split import entries_of, frozen_entries

log = logging.getLogger(__name__)


class FedAvg(Strategy):
    r"""Averages the replies, :math:`w \leftarrow \sum_k n_k w_k / \sum_k n_k`, over the cohort of each round.

    BatchNorm's running statistics are averaged like weights; its counters take the maximum (``RunningAverage``).

    Parameters
    ----------
    model
        The network, from which a method with a personal part learns the names of that part's entries. FedAvg itself has
        none and can do without.
    weighting
        ``"examples"`` weighs a client by its ``num-examples`` (the paper), ``"uniform"`` weighs all alike (FedBN's
        code).
    fraction
        Share of the clients in each round's cohort, in (0, 1]; halves of a client are rounded up, and at least one is
        drawn.
    seed
        Decides the cohorts: round r draws the same clients whatever happened before. (In an app of your own, node ids
        are Flower's and random; in this simulator they are partition ids, so cohorts repeat.)
    aggregation
        What takes the place of the average, such as ``fedsim.aggregation.Median()``; metrics are averaged all the same.
    """

    personal_modules: ClassVar[tuple[type[nn.Module], ...]] = ()
    """The module types whose parameters and buffers never leave a client: the method's declared state split."""

    masks: Mapping[str, torch.Tensor] = MappingProxyType({})
    """Which weights are kept, by layer; a dense network has none."""

    parts: Mapping[float, Mapping[str, torch.Tensor]] = MappingProxyType({})
    """The same for devices that train less than the others, by their density."""

    training_load: Workload = Workload()
    """What a round of training takes on a device: of a method that is more than plain training, what more there is."""

    alike: bool = True
    """Whether all clients are sent the same model."""

    asked_share: float = 0.0
    """The share of its training images that a client is asked about before it trains."""

    def __init__(
        self,
        model: nn.Module | None = None,
        *,
        weighting: str = "examples",
        fraction: float = 1.0,
        seed: int = 0,
        aggregation: Aggregation | None = None,
    ) -> None:
        if weighting not in ("examples", "uniform"):
            raise UserError(f"strategy.weighting={weighting} is not known: choose examples or uniform.")
        if not 0 < fraction <= 1:
            raise UserError(f"fraction={fraction} is not possible: choose a number above 0 and at most 1.")
        if self.personal_modules and model is None:
            raise ValueError(f"{type(self).__name__} needs the model to know which of its entries are personal")
        self.personal = frozenset(entries_of(model, self.personal_modules) if model is not None else ())
        self.frozen = frozen_entries(model) if model is not None else frozenset()
        self.weighting = weighting
        self.fraction = fraction
        self.seed = seed
        self.aggregation = aggregation if aggregation is not None else Mean()
        self._sent = ArrayRecord()
        if self.aggregation.noisy and weighting != "uniform":
            raise UserError(
                f"strategy.weighting={weighting} lets a client weigh more than privacy.noise_multiplier is made for: "
                "choose strategy.weighting=uniform, or privacy.noise_multiplier=0."
            )

    def keep_on_clients(self, entries: Iterable[str]) -> None:
        """Makes further entries personal: those that the norm's policy keeps local."""
        self.personal |= frozenset(entries)

    def shared(self, arrays: ArrayRecord) -> ArrayRecord:
        """The part of the model that travels: what is neither personal nor frozen."""
        return select(arrays, (name for name in arrays if name not in self.personal and name not in self.frozen))

    def evaluated(self, arrays: ArrayRecord) -> ArrayRecord:
        """What a client is sent to be evaluated: the same, unless a method has a reason to send more."""
        return self.shared(arrays)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        cohort = draw_cohort(list(grid.get_node_ids()), self.fraction, self.seed, server_round)
        return self._messages(TRAIN, cohort, server_round, self.shared(arrays), config)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """What the aggregation makes of the replies' arrays, and the average of their metrics.

        Where that is an average, too, each reply is let go before the next is read.
        """
        arrays, metrics = self.aggregation.start(server_round, to_tensors(self._sent)), _MetricAverage()
        for reply in replies:
            if reply.has_error():
                _name_failure(reply, server_round)
                continue
            reply_metrics = metrics_of(reply)
            arrays.add(self.received(reply), self.weight(reply))
            metrics.add(reply_metrics, number(reply_metrics, NUM_EXAMPLES))
        if metrics.empty:
            return None, None
        aggregated = to_record(arrays.result())
        return aggregated, MetricRecord({**metrics.result(), **self.aggregation.metrics()})

    def weight(self, reply: Message) -> float:
        """How much a reply counts in whatever the method averages: its images, or as much as any other."""
        return 1.0 if self.weighting == "uniform" else number(metrics_of(reply), NUM_EXAMPLES)

    def received(self, reply: Message) -> dict[str, torch.Tensor]:
        """What is aggregated of a reply."""
        return to_tensors(self.shared(arrays_of(reply)))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Every client is evaluated, not only the cohort."""
        return self._messages(EVALUATE, sorted(grid.get_node_ids()), server_round, self.evaluated(arrays), config)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        metrics = _MetricAverage()
        for reply in replies:
            if reply.has_error():
                _name_failure(reply, server_round)
                continue
            metrics.add(metrics_of(reply), number(metrics_of(reply), NUM_EXAMPLES))
        return None if metrics.empty else metrics.result()

    def workload(self, client: int) -> Workload:
        return self.training_load

    def planned(self, density: float | None = None) -> Sequence[Workload]:
        return [self.training_load]

    def state(self) -> RecordDict:
        """What a checkpoint must hold beside the model: nothing, but for an aggregation that keeps something."""
        return self.aggregation.state()

    def load_state(self, state: RecordDict) -> None:
        """Takes back what ``state`` returned."""
        self.aggregation.load_state(state)

    def summary(self) -> None:
        log.info(
            "%s: weighting %s, fraction %g, %d personal entries",
            *(type(self).__name__, self.weighting, self.fraction, len(self.personal)),
        )

    def _messages(
        self, type_: str, clients: list[int], server_round: int, sent: ArrayRecord, config: ConfigRecord
    ) -> Iterable[Message]:
        if type_ == TRAIN:
            self._sent = sent
        config = config.copy()
        config[ROUND] = server_round
        content = RecordDict({ARRAYS: sent, CONFIG: config})  # one for all: an engine packs it once
        return [Message(content, client, type_) for client in clients]


class _MetricAverage:
    """The average of the clients' metrics, weighted by examples, as Flower's strategies form it."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._examples = 0.0
        self.empty = True

    def add(self, metrics: MetricRecord, examples: float) -> None:
        self.empty = False
        self._examples += examples
        for name in metrics:
            if name != NUM_EXAMPLES:
                self._sums[name] = self._sums.get(name, 0.0) + examples * number(metrics, name)

    def result(self) -> MetricRecord:
        return MetricRecord({name: total / self._examples for name, total in self._sums.items()})


def _name_failure(reply: Message, server_round: int) -> None:
    """Only in an app of your own: this simulator's loop deals with failures before they get here."""
    log.warning("client %d failed in round %d: %s", reply.metadata.src_node_id, server_round, reply.error.reason)
