"""What travels in a round of a method and what stays on a client, found out by playing rounds and reading the messages.

Nothing is evaluated and nothing is written. What a method sends in some later rounds only is told from its
declarations.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from torch import nn

from fedsim.client.app_factory import ClientAppFactory
from fedsim.core.errors import RoundFailed
from fedsim.engines.grid import FederationGrid, WrappedGrid
from fedsim.engines.grid_wrappers import CountingGrid
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import count_bytes, to_record
from fedsim.messages.schema import ARRAYS, CONFIG, METRICS, ROUND, TRAIN, config_of, kind_of, metrics_of
from fedsim.methods.client_state import METHOD
from fedsim.methods.reply_checks import ReplyChecks
from fedsim.server.preparation import Prepared
from fedsim.server.reply_grids import CheckedGrid

ROUNDS = 2
"""The first has what is sent once, the second is a round like the others."""
STRUCTURE = (ARRAYS, CONFIG, METRICS)
"""The records of every method."""


@dataclass(frozen=True)
class Exchanged:
    """The messages of one round between the server and one client."""

    bytes_down: int
    bytes_up: int
    down: frozenset[str]
    """What the client was sent beside the model: records, and entries of the config as ``NAME (config)``"""
    up: frozenset[str]
    """What it replied beside the model: records, and metrics as ``NAME (metrics)``"""
    queries: frozenset[str]
    """The kinds of messages before training, such as ``query.gradients``"""


@dataclass(frozen=True)
class Played:
    """What was found out about a method; all of it for one client, the first."""

    first: Exchanged
    later: Exchanged
    """A round in which nothing is sent for the first time"""
    model_travels: bool
    declared: frozenset[str]
    """Reply records that the method declares"""
    personal: tuple[str, ...]
    """The types of the modules that never leave a client; ``whole model`` if none does"""
    kept: frozenset[str]
    """The records of the method in the client state after these rounds"""


@dataclass
class _Seen:
    down: set[str] = field(default_factory=set)
    up: set[str] = field(default_factory=set)
    queries: set[str] = field(default_factory=set)


class _Reading(WrappedGrid):
    """A grid that notes the names of what travels to and from one client."""

    def __init__(self, grid: FederationGrid, client: int) -> None:
        super().__init__(grid)
        self.client = client
        self.seen = _Seen()

    def passed(self, message: Message, reply: Message) -> Message:
        if reply.has_error():
            raise RoundFailed(f"client {message.metadata.dst_node_id} failed: {reply.error.reason}")
        if message.metadata.dst_node_id == self.client:
            if message.metadata.message_type == TRAIN:
                self.seen.down |= _names(message.content, config_of(message), CONFIG)
                self.seen.up |= _names(reply.content, metrics_of(reply), METRICS)
            else:
                self.seen.queries.add(kind_of(message))
        return reply


def play(prepared: Prepared) -> Played:
    """Play the first rounds of a prepared run in this process, whatever its engine, and return what travelled.

    Raises:
        RoundFailed: If a client fails, or its reply is refused.
    """
    strategy, clients = prepared.strategy, len(prepared.federation.clients)
    arrays = to_record({name: tensor.clone() for name, tensor in prepared.model.state_dict().items()})
    checks = ReplyChecks(
        prepared.federation,
        prepared.model.state_dict(),
        reply_records=strategy.reply_records,
        queries=strategy.queries,
    )
    rounds: list[Exchanged] = []
    with InlineGrid(ClientAppFactory(prepared.settings, prepared.federation), clients, prepared.devices) as engine:
        for number in range(1, ROUNDS + 1):
            counting = CountingGrid(engine)
            reading = _Reading(CheckedGrid(counting, checks), next(iter(prepared.federation.clients)))
            messages = list(strategy.configure_train(number, arrays, ConfigRecord(), reading))
            sent = messages[0].content.array_records.get(ARRAYS, ArrayRecord())
            aggregated, _ = strategy.aggregate_train(number, reading.send_and_receive(messages))
            arrays = arrays if aggregated is None else aggregated
            trained = {message.metadata.dst_node_id for message in messages}  # one of them where it has all images
            rounds.append(_exchanged(counting, reading.seen, len(trained)))
        state = engine.client_states()[reading.client]
    return Played(
        first=rounds[0],
        later=rounds[-1],
        model_travels=bool(count_bytes(sent)),
        declared=frozenset(strategy.reply_records) - set(STRUCTURE),
        personal=modules_of(prepared.model, strategy.personal),
        kept=frozenset(name.removeprefix(METHOD) for name in state if name.startswith(METHOD)),
    )


def modules_of(model: nn.Module, entries: Iterable[str]) -> tuple[str, ...]:
    """Return the types of the modules that these entries of a model belong to, in the model's order."""
    entries = set(entries)
    if entries >= model.state_dict().keys():
        return ("whole model",)
    owners = {name.rpartition(".")[0] for name in entries}
    return tuple(dict.fromkeys(type(module).__name__ for name, module in model.named_modules() if name in owners))


def _exchanged(counting: CountingGrid, seen: _Seen, clients: int) -> Exchanged:
    return Exchanged(
        bytes_down=counting.bytes_down // clients,
        bytes_up=counting.bytes_up // clients,
        down=frozenset(seen.down),
        up=frozenset(seen.up),
        queries=frozenset(seen.queries),
    )


def _names(content: RecordDict, entries: Iterable[str], record: str) -> set[str]:
    """Return the names of what a message has beside the model and the number of the round.

    ``entries`` are those of ``record``, one of the records that the messages of every method have.
    """
    return {name for name in content if name not in STRUCTURE} | {
        f"{entry} ({record})" for entry in entries if entry != ROUND
    }
