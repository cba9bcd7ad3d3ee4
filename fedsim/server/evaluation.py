"""Evaluation after a round: the global model on every domain, and each client's own model on its own test set.

A client's test set is evaluated in the batches of ``evaluation_batches``, the global model in batches of one domain. If
the result of an image depends on its batch, a client of several domains needs both measurements; else one of them
serves for both.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from flwr.app import ArrayRecord, ConfigRecord, Message

from datasets.federation import Federation
from datasets.source import Part
from fedsim.engines.grid import FederationGrid
from fedsim.messages.arrays import to_record
from fedsim.messages.schema import DOMAIN, EVALUATE_GLOBAL, PART, ROUND, message
from fedsim.methods.federated_model import FederatedModel
from fedsim.methods.interfaces import ServerStrategy
from fedsim.metrics.measured import Evaluation, Measured, pool

Successful = Callable[[Iterable[Message], int], Iterable[Message]]
"""Takes replies and the number of messages; yields the replies without errors, or raises if too many failed."""
ByPart = dict[Part, dict[int, Measured]]
"""Results by part of the images and client."""


@dataclass(frozen=True)
class Evaluator:
    """Evaluates the model of a round: the global model on every domain, and each client's own on its images."""

    strategy: ServerStrategy
    federation: Federation
    one_model: bool
    """Whether every client uses the model that the server sends, without a part of its own."""
    by_batch: bool
    """Whether the result of an image depends on the other images of its batch."""

    def clients_to_ask(self) -> dict[Part, set[int]]:
        """Return the clients that need an evaluation message, by part of their images.

        If all clients use one model, a client whose test set consists of that of one or more domains needs none: its
        result is pooled from those of the domains, which are computed once. If the result of an image depends on its
        batch, this holds only for test sets of a single domain, since batches of several domains would be mixed.
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
        """Evaluate the global model on each domain, and the clients' models on the clients that are ``asked``.

        If devices do not send their personal parts, there is no global model, and domains are not evaluated.
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
            for ok in successful([reply], 1):  # one at a time: global accuracy needs every domain
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
        """Return the strategy's evaluation messages with ``arrays`` to the clients asked for each part."""
        messages: list[Message] = []
        for part, clients in asked.items():
            config = ConfigRecord({PART: part.name})
            to_all = self.strategy.configure_evaluate(round, arrays, config, grid) if clients else ()
            messages += [each for each in to_all if each.metadata.dst_node_id in clients]
        return messages

    def with_clients(self, evaluation: Evaluation, measured: Mapping[Part, Mapping[int, Measured]]) -> Evaluation:
        """Return the evaluation with results of clients: those measured by clients, and those pooled from domains."""
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
        """Return the domains whose pooled results are those of the client's test set; empty if there are none."""
        return self.federation.test_domains(client, self.by_batch) if self.one_model else ()
