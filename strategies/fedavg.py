"""FedAvg (McMahan et al., AISTATS 2017, arXiv 1602.05629): the server sends its model and averages what comes back.

The other methods of this folder derive from it and override the step that differs. In the order of a round:

* ``arrays_to_train``, ``round_records``, ``round_config``: what is sent to the cohort;
* ``broadcasts``: what is sent to each client once;
* ``reply_tensors`` and ``read_reply``: the part of a reply that is averaged, and the rest of it;
* ``server_update``: the step from the previous model to the average, for parameters only;
* ``after_aggregation``: what the method does with the new model;
* ``arrays_to_evaluate``, ``evaluation_records``: what is sent to every client for evaluation.
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

from fedsim.aggregation import Mean, RunningAverage
from fedsim.core.errors import UserError
from fedsim.core.seeding import draw_cohort
from fedsim.cost import Workload
from fedsim.messages.arrays import select, to_record, to_tensors
from fedsim.messages.groups import ADD_UP, UNIFORM, WEIGHTINGS, group_of, is_added_up, weight_of
from fedsim.messages.schema import ARRAYS, CONFIG, EVALUATE, NUM_EXAMPLES, ROUND, TRAIN, arrays_of, metrics_of, number
from fedsim.methods.cached_broadcast import CachedBroadcast
from fedsim.methods.reply_records import RecordCheck
from fedsim.methods.state_split import entries_of, frozen_entries
from fedsim.methods.training import ServerTraining

log = logging.getLogger(__name__)

Tensors = dict[str, torch.Tensor]
ConfigValue = bool | int | float | str | list[str]


class FedAvg(Strategy):
    r"""Averages the replies, :math:`w \leftarrow \sum_k n_k w_k / \sum_k n_k`, over the cohort of each round.

    BatchNorm's running statistics are averaged like weights; its counters take the maximum (``RunningAverage``).

    Args:
        model: The network, which supplies the names of its entries. Optional for FedAvg itself.
        training: Weighting (``"examples"`` weighs a client by its ``num-examples``, as the paper does; ``"uniform"``
            weighs all clients the same), fraction, seeds and aggregation. In this simulator node ids are partition ids,
            so a seed reproduces the cohorts; in another Flower app they are Flower's random ids.

    Raises:
        UserError: If the weighting is unknown, the fraction is not in (0, 1], or noise for privacy is combined with
            another weighting than ``"uniform"``.
        ValueError: If the method has personal modules and ``model`` is ``None``.
    """

    personal_modules: ClassVar[tuple[type[nn.Module], ...]] = ()
    """The module types whose parameters and buffers never leave a client: the method's declared state split."""
    default_weighting: ClassVar[str] = "examples"
    """The weighting of the method's paper or official code."""
    uses_aggregation: ClassVar[bool] = True
    """Whether ``ServerTraining.aggregation`` makes the new model."""
    reply_records: Mapping[str, RecordCheck] = MappingProxyType({})
    """The records that replies to training may have beside ``arrays`` and ``metrics``, each with its check."""
    queries: Mapping[str, RecordCheck] = MappingProxyType({})
    """The queries that the method sends to clients beside training, each with the check of the reply's arrays."""
    training_load: Workload = Workload()
    """The cost of a round of training on a device, in what it adds to plain training."""
    depends_on_rounds: str = ""
    """An option, as ``KEY=VALUE``, by which a round is another one if the run has more rounds."""
    sends_one_model: bool = True
    """Whether all clients are sent the same model."""
    own_models: bool = False
    """Whether clients are evaluated with more of their own than the entries that are personal."""
    gathers_statistics: bool = False
    """Whether the strategy gathers the running statistics of layers that do not gather them in training."""
    queried_share: float = 0.0
    """The share of a client's training images that the queries before training use."""
    pooled: bool = False
    """Whether the training images of all clients have to be in one place."""

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
        """The entries of the model that are trained."""
        self.weighting = weighting
        self.fraction = training.fraction
        self.seed = training.seed
        self.cohort_seed = training.seed if training.cohort_seed is None else training.cohort_seed
        self.aggregation = training.aggregation
        self.broadcasts: list[CachedBroadcast] = []
        """What is sent to each client once."""
        self.sent = ArrayRecord()
        """The arrays that were sent to this round's cohort."""
        self.adding_up = False
        """Whether this round's replies may be parts of sums; that a reply says so is not enough."""
        self.num_successful = 0
        """Number of clients of the cohort that replied without an error."""
        if self.aggregation.noisy and weighting != UNIFORM:
            raise UserError(
                f"strategy.weighting={weighting} lets a client weigh more than privacy.noise_multiplier is made for: "
                "choose strategy.weighting=uniform, or privacy.noise_multiplier=0."
            )

    @property
    def added_up_by(self) -> str | None:
        """The weighting by which an engine may add up replies before they are here (``fedsim/messages/groups.py``).

        ``None`` if the method reads more of a reply than its metrics, or does something else than to average the model.
        """
        sent = ("configure_train", "messages", "arrays_to_train")
        read = ("aggregate_train", "weight", "reply_tensors", "read_reply")
        as_here = all(getattr(type(self), step) is getattr(FedAvg, step) for step in (*sent, *read))
        return self.weighting if as_here and type(self.aggregation) is Mean and not self.reply_records else None

    def keep_on_clients(self, entries: Iterable[str]) -> None:
        """Declare further entries as personal: those that ``norm.policy`` keeps local."""
        self.personal |= frozenset(entries)

    @property
    def sent_tensors(self) -> Tensors:
        """What the cohort of this round was sent, as tensors."""
        return to_tensors(self.sent)

    def cohort(self, server_round: int, grid: Grid) -> list[int]:
        """Return the node ids of the clients that train in a round."""
        return draw_cohort(list(grid.get_node_ids()), self.fraction, self.cohort_seed, server_round)

    def arrays_to_train(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return the part of the model that is sent for training: what is neither personal nor frozen."""
        left_out = self.personal | self.frozen
        if left_out.isdisjoint(arrays):
            return arrays
        return select(arrays, (name for name in arrays if name not in left_out))

    def arrays_to_evaluate(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return the part of the model that is sent for evaluation: the same as for training, in the same form."""
        return self.arrays_to_train(arrays)

    def round_records(self, server_round: int) -> RecordDict:
        """Return further records for the messages to the cohort, for this round only."""
        return RecordDict()

    def round_config(self, server_round: int) -> Mapping[str, ConfigValue]:
        """Return further entries for the config of the messages to the cohort, under the method's own keys."""
        return {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages to the cohort, which share one content."""
        self.sent, clients = self.arrays_to_train(arrays), self.cohort(server_round, grid)
        self.adding_up = ADD_UP in config
        config = ConfigRecord({**config, **self.round_config(server_round)})
        messages = self.messages(TRAIN, clients, server_round, self.sent, config, self.round_records(server_round))
        for broadcast in self.broadcasts:
            messages = broadcast.attach(messages)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the new model and the average of the replies' metrics; ``None`` twice if no reply is without an error.

        If the aggregation is a running average, each reply is released before the next is read, so that memory does
        not grow with the cohort, and the replies are averaged in groups (``fedsim/messages/groups.py``).
        """
        before = self.sent_tensors
        aggregate, metrics = self.aggregation.start(server_round, before), _MetricAverage()
        average = aggregate if isinstance(aggregate, RunningAverage) else None
        self.num_successful = 0
        for reply in replies:
            if reply.has_error():
                _name_failure(reply, server_round)
                continue
            self.num_successful += 1
            self.read_reply(reply)
            if average is not None:
                average.enter(reply.metadata.group_id)
            if average is not None and self.adding_up and is_added_up(reply):
                average.add_summed(self.reply_tensors(reply), self.weight(reply), before)
            else:
                aggregate.add(self.reply_tensors(reply), self.weight(reply))
            metrics.add(metrics_of(reply), number(metrics_of(reply), NUM_EXAMPLES))
        if not self.num_successful:
            return None, None
        aggregated = self._updated(server_round, before, aggregate.result())
        arrays = to_record(self.after_aggregation(server_round, aggregated))
        return arrays, MetricRecord({**metrics.result(), **self.aggregation.metrics()})

    def weight(self, reply: Message) -> float:
        """Return the weight of a reply in every average of the method: its number of images, or 1 if uniform."""
        return weight_of(reply, self.weighting)

    def reply_tensors(self, reply: Message) -> Tensors:
        """Return the part of a reply that is aggregated."""
        return to_tensors(self.arrays_to_train(arrays_of(reply)))

    def read_reply(self, reply: Message) -> None:
        """Process what a successful reply contains beside the model; an override must call this one."""
        for broadcast in self.broadcasts:
            broadcast.answered(reply.metadata.src_node_id)

    def server_update(self, server_round: int, before: Tensors, average: Tensors) -> Tensors:
        """Return the new values of the shared parameters, from those that were sent and the average of the replies.

        A server optimizer overrides this. It sees parameters only: running statistics and counters stay as aggregated,
        since a step could make a variance negative.
        """
        return average

    def after_aggregation(self, server_round: int, arrays: Tensors) -> Tensors:
        """Return the model of the next round, from the aggregated and updated one."""
        return arrays

    def evaluation_records(self, server_round: int) -> RecordDict:
        """Return further records for the messages that evaluate a client's model; the same as the next cohort is sent.

        On devices a client is evaluated with what it is sent for training.
        """
        return RecordDict()

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return evaluation messages to every client, not only to the cohort."""
        clients, records = sorted(grid.get_node_ids()), self.evaluation_records(server_round)
        messages = self.messages(EVALUATE, clients, server_round, self.arrays_to_evaluate(arrays), config, records)
        for broadcast in self.broadcasts:
            messages = broadcast.attach_to_all(messages)
        return messages

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return the average of the replies' metrics; called in Flower apps, not by this simulator's loop."""
        metrics = _MetricAverage()
        for reply in replies:
            if reply.has_error():
                _name_failure(reply, server_round)
                continue
            metrics.add(metrics_of(reply), number(metrics_of(reply), NUM_EXAMPLES))
        return None if metrics.empty else metrics.result()

    def workload(self, client: int) -> Workload:
        """Return the cost of the current round of training on that client's device."""
        return self.training_load

    def planned(self, size: float | None = None) -> Sequence[Workload]:
        """Return the possible costs of future rounds on a device of this size, to be compared with a budget."""
        return [self.training_load]

    def state(self) -> RecordDict:
        """Return the state for a checkpoint beside the model: the aggregation's, and which clients have broadcasts."""
        states = [self.aggregation.state(), *(broadcast.state() for broadcast in self.broadcasts)]
        return RecordDict({name: record for state in states for name, record in state.items()})

    def load_state(self, state: RecordDict) -> None:
        """Restore what ``state`` returned."""
        self.aggregation.load_state(state)
        for broadcast in self.broadcasts:
            broadcast.load_state(state)

    def summary(self) -> None:
        """Log the method's settings; Flower calls this at the start of a run."""
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
        """Return one message to each client; all share one content object, which an engine serializes once."""
        config = config.copy()
        config[ROUND] = server_round
        content = RecordDict({ARRAYS: arrays, CONFIG: config, **(records or {})})
        return [Message(content, client, type_, group_id=group_of(place)) for place, client in enumerate(clients)]

    def _updated(self, server_round: int, before: Tensors, aggregated: Tensors) -> Tensors:
        parameters = [name for name in aggregated if name in self.parameters and name in before]
        updated = self.server_update(
            server_round,
            {name: before[name] for name in parameters},
            {name: aggregated[name] for name in parameters},
        )
        return {**aggregated, **updated}


class _MetricAverage:
    """The average of the clients' metrics weighted by examples, as in Flower's strategies."""

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
    """Log a failed reply; reached only in other Flower apps, since this simulator's loop handles failures before."""
    log.warning("client %d failed in round %d: %s", reply.metadata.src_node_id, server_round, reply.error.reason)
