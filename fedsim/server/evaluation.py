"""What is evaluated after a round: the global model on every domain, and each client's own model on its own test set.

A client's test set is evaluated in the batches of ``evaluation_batches``, the global model's always in batches of one
domain. Where an image's result depends on its batch these are two measurements of a client of several domains, else one
serves both.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

from flwr.app import ArrayRecord, ConfigRecord, Message

from datasets.federation import Federation
from datasets.source import Part
from fedsim.engines.grid import FederationGrid
from fedsim.messages.arrays import to_record
from fedsim.messages.schema import DOMAIN, EVALUATE_GLOBAL, PART, ROUND, message
from fedsim.methods.interfaces import ServerStrategy
from fedsim.metrics.measured import Measured, pool
from fedsim.server.federated_model import FederatedModel


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
ByPart = dict[Part, dict[int, Measured]]
"""What clients measured, on which part of their images."""


@dataclass(frozen=True)
class Evaluator:
    """Evaluates the model of a round, the global one on every domain and each client's own on its images."""

    strategy: ServerStrategy
    federation: Federation
    one_model: bool
    """Whether every client uses the model that the server sends and nothing of its own"""
    by_batch: bool
    """Whether the result of an image depends on the others of its batch"""

    def clients_to_ask(self) -> dict[Part, set[int]]:
        """Return which clients have to be asked for an evaluation, and on which part of their images.

        Where all use one model, a client whose test set is that of one or more domains has their numbers, computed
        once. Where the result of an image depends on the others of its batch, that holds for one domain only: the
        batches of several would be mixed.
        """
        tested = {client for client in self.federation.clients if not self._domains_of(client)}
        asked = {Part.TEST: tested, Part.VALIDATION: set(self.federation.validated)}
        return {part: clients for part, clients in asked.items() if clients}

    def evaluate(
        self,
        grid: FederationGrid,
        round: int,
        model: FederatedModel,
        asked: Mapping[Part, Collection[int]],
        successful: Successful,
    ) -> Evaluation:
        """Evaluate the global model on each domain, and what the strategy sends where clients are ``asked``.

        Where the clients keep their parts of the model to themselves there is nothing global.
        """
        hosts = self.federation.domain_hosts if model.known and not self.federation.on_devices else []
        complete = to_record(model.complete) if hosts else ArrayRecord()
        on_domains = [
            message(EVALUATE_GLOBAL, client, complete, ConfigRecord({ROUND: round, DOMAIN: name}))
            for name, client in hosts
        ]
        to_clients = self.messages(grid, round, model.arrays, asked)
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
            domains={name: measured[name] for name in self.federation.domain_tests if name in measured},
            unseen={name: measured[name] for name in self.federation.unseen_tests if name in measured},
        )
        return self.with_clients(on_server, by_part)

    def messages(
        self, grid: FederationGrid, round: int, arrays: ArrayRecord, asked: Mapping[Part, Collection[int]]
    ) -> list[Message]:
        """Return what the strategy sends of ``arrays`` to be evaluated, to each of those clients for each part."""
        messages: list[Message] = []
        for part, clients in asked.items():
            config = ConfigRecord({PART: part.name})
            to_all = self.strategy.configure_evaluate(round, arrays, config, grid) if clients else ()
            messages += [each for each in to_all if each.metadata.dst_node_id in clients]
        return messages

    def with_clients(self, evaluation: Evaluation, measured: Mapping[Part, Mapping[int, Measured]]) -> Evaluation:
        """Return the evaluation completed by what the clients answered and what they need not be asked."""
        tested = dict(measured.get(Part.TEST, {}))
        domains = dict(evaluation.domains)
        if self.one_model and self.federation.on_devices:  # a domain's test images are those of its devices
            by_domain: dict[str, list[Measured]] = {}
            for client, result in sorted(tested.items()):
                by_domain.setdefault(self.federation.domain_of(client), []).append(result)
            domains = {name: pool(results) for name, results in by_domain.items()}
        elif self.one_model:
            pooled: dict[tuple[str, ...], Measured] = {}  # many clients have the same domains
            for client in self.federation.clients:
                names = self._domains_of(client)
                if names and names not in pooled:
                    pooled[names] = pool(evaluation.domains[name] for name in names)
                if names:
                    tested[client] = pooled[names]
        return replace(
            evaluation,
            clients=dict(sorted(tested.items())),
            domains=domains,
            validation=dict(sorted(measured.get(Part.VALIDATION, {}).items())),
        )

    def _domains_of(self, client: int) -> tuple[str, ...]:
        """Return the domains whose test sets make up the client's, if their numbers are its own."""
        return self.federation.test_domains(client, self.by_batch) if self.one_model else ()
