"""What is evaluated after a round: the global model on every domain, and each client's own model on its own test set.

A client's test set is evaluated in the batches of ``evaluation_batches``, the global model's always in batches of one
domain. Where an image's result depends on its batch these are two measurements of a client of several domains, else one
serves both.

The *global model* of a method with a personal part is the shared part completed by the average, over all clients and
unweighted, of their personal parts: FedBN's shared weights with averaged BatchNorm, and for local training the average
of all models. Reading those parts is measuring: it is no message of the method and not counted in its bytes.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from datasets.federation import Federation
from datasets.source import Part
from fedsim.aggregation import RunningAverage
from fedsim.client.host import PERSONAL, TRAINED
from fedsim.engines.grid import FederationGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import DOMAIN, EVALUATE_GLOBAL, PART, ROUND, message
from fedsim.methods.interfaces import ServerHalf
from fedsim.metrics.measured import Measured, pool

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Evaluation:
    """All results of one round, for clients in ascending order and for domains in the source's order."""

    clients: dict[int, Measured]
    """each client's own model on its own test set"""
    domains: dict[str, Measured]
    """the global model on the test set of each domain that a client belongs to"""
    unseen: dict[str, Measured] = field(default_factory=dict)
    """the global model on the domains that were left out"""
    validation: dict[int, Measured] = field(default_factory=dict)
    """each client's own model on its validation images, for those that have any"""


Successful = Callable[[Iterable[Message], int], Iterable[Message]]
"""Passes on the replies to so many messages, and drops, or ends the run for, those that failed."""


def asked_clients(federation: Federation, alike: bool, *, by_batch: bool = False) -> dict[Part, set[int]]:
    """Return which clients have to be asked for an evaluation, and on which part of their images.

    Where the clients are ``alike``, all using the model that the server sends and nothing of their own, a client whose
    test set is that of one or more domains has their numbers, computed once. Where the result of an image depends on
    the others of its batch, ``by_batch``, that holds for one domain only: the batches of several would be mixed.
    """
    tested = {client for client in federation.clients if not (alike and federation.test_domains(client, by_batch))}
    asked = {Part.TEST: tested, Part.VALIDATION: set(federation.validated)}
    return {part: clients for part, clients in asked.items() if clients}


def evaluate(
    grid: FederationGrid,
    strategy: ServerHalf,
    federation: Federation,
    model: Tensors | None,
    arrays: ArrayRecord,
    round: int,
    successful: Successful,
    alike: bool,
    asked: Mapping[Part, Collection[int]],
    *,
    by_batch: bool = False,
) -> Evaluation:
    """Evaluates ``model``, the global one, on each domain, and what the strategy sends of ``arrays`` where ``asked``.

    Without a ``model``, where the clients keep their parts of it to themselves, there is nothing global.
    """
    hosts = [] if model is None or federation.on_devices else federation.domain_hosts
    complete = to_record(model or {})
    on_domains = [
        message(EVALUATE_GLOBAL, client, complete, ConfigRecord({ROUND: round, DOMAIN: name})) for name, client in hosts
    ]
    to_clients = evaluation_messages(grid, strategy, arrays, round, asked)
    replies = iter(grid.send_and_receive([*on_domains, *to_clients]))
    measured = {}
    for (name, _), reply in zip(hosts, replies, strict=False):
        for ok in successful([reply], 1):  # alone: without one of its domains the global accuracy is another number
            measured[name] = Measured.from_reply(ok)
    by_part = {
        part: {
            reply.metadata.src_node_id: Measured.from_reply(reply)
            for reply in successful(islice(replies, len(clients)), len(clients))
        }
        for part, clients in asked.items()
    }
    on_server = Evaluation(
        clients={},
        domains={name: measured[name] for name in federation.domain_tests if name in measured},
        unseen={name: measured[name] for name in federation.unseen_tests if name in measured},
    )
    return with_clients(on_server, federation, alike, by_part, by_batch=by_batch)


def evaluation_messages(
    grid: FederationGrid, strategy: ServerHalf, arrays: ArrayRecord, round: int, asked: Mapping[Part, Collection[int]]
) -> list[Message]:
    """What the strategy sends of ``arrays`` to be evaluated, to each of those clients for each part."""
    messages: list[Message] = []
    for part, clients in asked.items():
        to_all = strategy.configure_evaluate(round, arrays, ConfigRecord({PART: part.name}), grid) if clients else ()
        messages += [each for each in to_all if each.metadata.dst_node_id in clients]
    return messages


def with_clients(
    evaluation: Evaluation,
    federation: Federation,
    alike: bool,
    measured: Mapping[Part, Mapping[int, Measured]],
    *,
    by_batch: bool = False,
) -> Evaluation:
    """The evaluation of the global model, completed by what the clients answered and what they need not be asked."""
    tested = dict(measured.get(Part.TEST, {}))
    domains = dict(evaluation.domains)
    if alike and federation.on_devices:  # the test images of a domain are those of its devices
        by_domain: dict[str, list[Measured]] = {}
        for client, result in sorted(tested.items()):
            by_domain.setdefault(federation.domain_of(client), []).append(result)
        domains = {name: pool(results) for name, results in by_domain.items()}
    elif alike:
        for client in federation.clients:
            names = federation.test_domains(client, by_batch)
            if names:
                tested[client] = pool(evaluation.domains[name] for name in names)
    return replace(
        evaluation,
        clients=dict(sorted(tested.items())),
        domains=domains,
        validation=dict(sorted(measured.get(Part.VALIDATION, {}).items())),
    )


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


def personal_ages(states: Mapping[int, RecordDict], round: int) -> list[int]:
    """For how many rounds each client's personal part has not been trained, while the shared part went on."""

    def trained(state: RecordDict) -> int:
        record = state.get(TRAINED, ConfigRecord())
        return int(str(record.get(ROUND, 0)))

    return [round - trained(state) for state in states.values()]


def personal_part(initial: Tensors, personal: frozenset[str], state: RecordDict) -> dict[str, torch.Tensor]:
    """What one client keeps of the model."""
    kept = state.get(PERSONAL, ArrayRecord())
    assert isinstance(kept, ArrayRecord)
    tensors = to_tensors(kept)
    return {name: tensors.get(name, initial[name]) for name in initial if name in personal}
