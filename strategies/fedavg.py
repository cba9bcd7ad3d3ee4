"""FedAvg (McMahan et al., AISTATS 2017, arXiv 1602.05629): the server sends its model and averages what comes back.

The other methods of this folder derive from it, and override the step that differs. In the order of a round:

* ``arrays_to_train``, ``round_records``, ``round_config``: what the cohort is sent;
* ``broadcasts``: what each client is sent once;
* ``reply_tensors`` and ``read_reply``: what is averaged of a reply, and what else it brings;
* ``server_update``: the step from the model before to the average, for parameters alone;
* ``after_aggregation``: what the method does with the new model;
* ``arrays_to_evaluate``: what every client is sent to be evaluated.
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

from fedsim.core.errors import UserError
from fedsim.core.seeding import draw_cohort
from fedsim.cost import Workload
from fedsim.messages.arrays import select, to_record, to_tensors
from fedsim.messages.schema import ARRAYS, CONFIG, EVALUATE, NUM_EXAMPLES, ROUND, TRAIN, arrays_of, metrics_of, number
from fedsim.methods.cached_broadcast import CachedBroadcast
from fedsim.methods.reply_records import RecordCheck
from fedsim.methods.state_split import entries_of, frozen_entries
from fedsim.methods.training import ServerTraining

log = logging.getLogger(__name__)

WEIGHTINGS = ("examples", "uniform")
Tensors = dict[str, torch.Tensor]
ConfigValue = bool | int | float | str | list[str]


class FedAvg(Strategy):
    r"""Averages the replies, :math:`w \leftarrow \sum_k n_k w_k / \sum_k n_k`, over the cohort of each round.

    BatchNorm's running statistics are averaged like weights; its counters take the maximum (``RunningAverage``).

    Parameters
    ----------
    model
        The network, from which a method learns the names of its entries. FedAvg itself can do without.
    training
        Weighting (``"examples"`` weighs a client by its ``num-examples``, as the paper does, ``"uniform"`` weighs all
        the same), fraction, seed and aggregation. (In an app of your own, node ids are Flower's and random; in this
        simulator they are partition ids, so cohorts repeat.)
    """

    personal_modules: ClassVar[tuple[type[nn.Module], ...]] = ()
    """The module types whose parameters and buffers never leave a client: the method's declared state split."""
    default_weighting: ClassVar[str] = "examples"
    """What the method's paper or code has."""
    uses_aggregation: ClassVar[bool] = True
    """Whether ``ServerTraining.aggregation`` makes the new model."""
    reply_records: Mapping[str, RecordCheck] = MappingProxyType({})
    """The records that replies to training may have beside ``arrays`` and ``metrics``, each with its check."""
    queries: Mapping[str, RecordCheck] = MappingProxyType({})
    """What the method asks its clients before training, each with the check of the reply's arrays."""
    training_load: Workload = Workload()
    """What a round of training takes on a device: of a method that is more than plain training, what more there is."""
    sends_one_model: bool = True
    """Whether all clients are sent the same model."""
    own_models: bool = False
    """Whether clients are evaluated with more of their own than the entries that are personal."""
    queried_share: float = 0.0
    """The share of its training images that a client is asked about before it trains."""

    def __init__(self, model: nn.Module | None = None, training: ServerTraining | None = None) -> None:
        training = ServerTraining() if training is None else training
        weighting = self.default_weighting if training.weighting is None else training.weighting
        if weighting not in WEIGHTINGS:
            raise UserError(f"strategy.weighting={weighting} is not known: choose {' or '.join(WEIGHTINGS)}.")
        if not 0 < training.fraction <= 1:
            raise UserError(f"fraction={training.fraction} is not possible: choose a number above 0 and at most 1.")
        if self.personal_modules and model is None:
            raise ValueError(f"{type(self).__name__} needs the model to know which of its entries are personal")
        self.personal = frozenset(entries_of(model, self.personal_modules) if model is not None else ())
        self.frozen = frozen_entries(model) if model is not None else frozenset()
        self.parameters = (
            frozenset(dict(model.named_parameters(remove_duplicate=False)) if model is not None else ()) - self.frozen
        )
        """The entries of the model that are trained"""
        self.weighting = weighting
        self.fraction = training.fraction
        self.seed = training.seed
        self.aggregation = training.aggregation
        self.broadcasts: list[CachedBroadcast] = []
        """What each client is sent once"""
        self.sent = ArrayRecord()
        """What the cohort of this round was sent"""
        self.num_successful = 0
        """How many of the cohort have answered well"""
        if self.aggregation.noisy and weighting != "uniform":
            raise UserError(
                f"strategy.weighting={weighting} lets a client weigh more than privacy.noise_multiplier is made for: "
                "choose strategy.weighting=uniform, or privacy.noise_multiplier=0."
            )

    def keep_on_clients(self, entries: Iterable[str]) -> None:
        """Make further entries personal: those that the norm's policy keeps local."""
        self.personal |= frozenset(entries)

    @property
    def sent_tensors(self) -> Tensors:
        """What the cohort of this round was sent, as tensors."""
        return to_tensors(self.sent)

    def cohort(self, server_round: int, grid: Grid) -> list[int]:
        """Return the clients of a round."""
        return draw_cohort(list(grid.get_node_ids()), self.fraction, self.seed, server_round)

    def arrays_to_train(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return the part of the model that travels: what is neither personal nor frozen."""
        return select(arrays, (name for name in arrays if name not in self.personal and name not in self.frozen))

    def arrays_to_evaluate(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return what a client is sent to be evaluated: the same, in the same form."""
        return self.arrays_to_train(arrays)

    def round_records(self, server_round: int) -> RecordDict:
        """Return what the cohort is sent beside the model, for this round only."""
        return RecordDict()

    def round_config(self, server_round: int) -> Mapping[str, ConfigValue]:
        """Return what the cohort is told beside that, under keys of the method's own."""
        return {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the cohort's messages, which share one content."""
        self.sent, clients = self.arrays_to_train(arrays), self.cohort(server_round, grid)
        config = ConfigRecord({**config, **self.round_config(server_round)})
        messages = self.messages(TRAIN, clients, server_round, self.sent, config, self.round_records(server_round))
        for broadcast in self.broadcasts:
            messages = broadcast.attach(messages)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the new model and the average of the replies' metrics; ``None`` twice if nobody has answered well.

        Where the aggregation is an average, too, each reply is let go before the next is read.
        """
        before = self.sent_tensors
        aggregate, metrics = self.aggregation.start(server_round, before), _MetricAverage()
        self.num_successful = 0
        for reply in replies:
            if reply.has_error():
                _name_failure(reply, server_round)
                continue
            self.num_successful += 1
            self.read_reply(reply)
            aggregate.add(self.reply_tensors(reply), self.weight(reply))
            metrics.add(metrics_of(reply), number(metrics_of(reply), NUM_EXAMPLES))
        if not self.num_successful:
            return None, None
        aggregated = self._updated(server_round, before, aggregate.result())
        arrays = to_record(self.after_aggregation(server_round, aggregated))
        return arrays, MetricRecord({**metrics.result(), **self.aggregation.metrics()})

    def weight(self, reply: Message) -> float:
        """Return how much a reply counts in whatever the method averages: its images, or as much as any other."""
        return 1.0 if self.weighting == "uniform" else number(metrics_of(reply), NUM_EXAMPLES)

    def reply_tensors(self, reply: Message) -> Tensors:
        """Return what is aggregated of a reply."""
        return to_tensors(self.arrays_to_train(arrays_of(reply)))

    def read_reply(self, reply: Message) -> None:
        """Take from a good reply what it brings beside the model; a method that overrides this calls it, too."""
        for broadcast in self.broadcasts:
            broadcast.answered(reply.metadata.src_node_id)

    def server_update(self, server_round: int, before: Tensors, average: Tensors) -> Tensors:
        """Return the new values of the parameters that travel, given those that were sent and the average of replies.

        Here a server optimizer has its place. It sees parameters only: statistics and counters are what the aggregation
        makes of them, since a step could make a variance negative.
        """
        return average

    def after_aggregation(self, server_round: int, arrays: Tensors) -> Tensors:
        """Return the model that the server goes on with, given the aggregated and updated one."""
        return arrays

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return messages to every client, not only to the cohort."""
        clients = sorted(grid.get_node_ids())
        messages = self.messages(EVALUATE, clients, server_round, self.arrays_to_evaluate(arrays), config)
        for broadcast in self.broadcasts:
            messages = broadcast.attach_to_all(messages)
        return messages

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return the average of the replies' metrics; only an app of one's own asks for it."""
        metrics = _MetricAverage()
        for reply in replies:
            if reply.has_error():
                _name_failure(reply, server_round)
                continue
            metrics.add(metrics_of(reply), number(metrics_of(reply), NUM_EXAMPLES))
        return None if metrics.empty else metrics.result()

    def workload(self, client: int) -> Workload:
        """Return what a round of training took on that client's device."""
        return self.training_load

    def planned(self, size: float | None = None) -> Sequence[Workload]:
        """Return what rounds will take, for a budget."""
        return [self.training_load]

    def state(self) -> RecordDict:
        """Return what a checkpoint must hold beside the model: of the aggregation, and who holds what was sent once."""
        states = [self.aggregation.state(), *(broadcast.state() for broadcast in self.broadcasts)]
        return RecordDict({name: record for state in states for name, record in state.items()})

    def load_state(self, state: RecordDict) -> None:
        """Take back what ``state`` returned."""
        self.aggregation.load_state(state)
        for broadcast in self.broadcasts:
            broadcast.load_state(state)

    def summary(self) -> None:
        """Log the method's settings, as Flower asks for at the start of a run."""
        log.info(
            "%s: weighting %s, fraction %g, %d personal entries",
            type(self).__name__,
            self.weighting,
            self.fraction,
            len(self.personal),
        )

    def messages(
        self,
        type_: str,
        clients: Iterable[int],
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        records: RecordDict | None = None,
    ) -> list[Message]:
        """Return one message to each client; all share one content, which an engine packs once."""
        config = config.copy()
        config[ROUND] = server_round
        content = RecordDict({ARRAYS: arrays, CONFIG: config, **(records or {})})
        return [Message(content, client, type_) for client in clients]

    def _updated(self, server_round: int, before: Tensors, aggregated: Tensors) -> Tensors:
        parameters = [name for name in aggregated if name in self.parameters and name in before]
        updated = self.server_update(
            server_round,
            {name: before[name] for name in parameters},
            {name: aggregated[name] for name in parameters},
        )
        return {**aggregated, **updated}


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
    """Log a failure in an app of one's own: this simulator's loop deals with failures before they get here."""
    log.warning("client %d failed in round %d: %s", reply.metadata.src_node_id, server_round, reply.error.reason)
