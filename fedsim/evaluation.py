"""What is evaluated after a round: the global model on every domain, and each client's own model on its own test set.

The *global model* of a method with a personal part is the shared part completed by the average, over all clients and
unweighted, of their personal parts: FedBN's shared weights with averaged BatchNorm, and for local training the average
of all models. Reading those parts is measuring: it is no message of the method and not counted in its bytes.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from datasets.federation import Federation
from fedsim.arrays import to_record, to_tensors
from fedsim.averaging import RunningAverage
from fedsim.client_host import PERSONAL
from fedsim.engines.grid import FederationGrid
from fedsim.messages import DOMAIN, EVALUATE_GLOBAL, NUM_EXAMPLES, ROUND, message, metrics_of, number
from fedsim.method import ServerHalf

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Measured:
    """A model on a test set."""

    num_examples: int
    correct: int
    loss: float
    """mean over the examples"""

    @property
    def accuracy(self) -> float:
        return self.correct / self.num_examples

    @classmethod
    def from_reply(cls, reply: Message) -> "Measured":
        metrics = metrics_of(reply)
        return cls(
            num_examples=int(number(metrics, NUM_EXAMPLES)),
            correct=int(number(metrics, "correct")),
            loss=number(metrics, "loss"),
        )


@dataclass(frozen=True)
class Evaluation:
    """All results of one round, for clients in ascending order and for domains in the source's order."""

    clients: dict[int, Measured]
    domains: dict[str, Measured]


def evaluate(
    grid: FederationGrid,
    strategy: ServerHalf,
    federation: Federation,
    model: Tensors,
    arrays: ArrayRecord,
    round: int,
    successful: Callable[[Iterable[Message], int], Iterable[Message]],
) -> Evaluation:
    """Evaluates ``model``, the global one, on each domain, and what the strategy sends of ``arrays`` on all clients.

    A client without a personal part, tested on its whole domain, has the number of its domain: the same model on the
    same images. It is computed once. ``successful`` passes the replies on and drops, or ends the run for, those that
    failed.
    """
    complete = to_record(model)
    first_of = {p.domain: p.client for p in reversed(federation.partitions)}
    global_messages = [
        message(EVALUATE_GLOBAL, first_of[domain], complete, ConfigRecord({ROUND: round, DOMAIN: domain}))
        for domain in federation.domain_tests
    ]
    alike = {c for c in federation.clients if not strategy.personal and federation.tested_on_domain(c)}
    client_messages = [
        client_message
        for client_message in strategy.configure_evaluate(round, arrays, ConfigRecord(), grid)
        if client_message.metadata.dst_node_id not in alike
    ]
    replies = iter(grid.send_and_receive(chain(global_messages, client_messages)))
    domains = {}
    for domain, reply in zip(federation.domain_tests, replies, strict=False):
        for ok in successful([reply], 1):  # alone: without one of its domains the global accuracy is another number
            domains[domain] = Measured.from_reply(ok)
    tested = {
        reply.metadata.src_node_id: Measured.from_reply(reply) for reply in successful(replies, len(client_messages))
    }
    tested |= {client: domains[federation.partitions[client].domain] for client in alike}
    return Evaluation(clients=dict(sorted(tested.items())), domains=domains)


def complete_model(
    initial: Tensors, shared: ArrayRecord, personal: frozenset[str], states: Mapping[int, RecordDict]
) -> dict[str, torch.Tensor]:
    """The global model: the shared part, and the average of what the clients keep where the part is personal.

    A client that has not trained yet counts with the initial values.
    """
    average: Tensors = {}
    if personal:
        running = RunningAverage()
        for state in states.values():
            running.add(personal_part(initial, personal, state), 1.0)
        average = running.result()
    return {**initial, **average, **to_tensors(shared)}


def personal_part(initial: Tensors, personal: frozenset[str], state: RecordDict) -> dict[str, torch.Tensor]:
    """What one client keeps of the model."""
    kept = state.get(PERSONAL, ArrayRecord())
    assert isinstance(kept, ArrayRecord)
    tensors = to_tensors(kept)
    return {name: tensors.get(name, initial[name]) for name in initial if name in personal}
