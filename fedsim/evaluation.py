"""What is evaluated after a round: the global model on every domain, and each client's own model on its own test set.

The *global model* of a method with a personal part is the shared part completed by the average, over all clients and
unweighted, of their personal parts: FedBN's shared weights with averaged BatchNorm, and for local training the average
of all models. Reading those parts is measuring: it is no message of the method and not counted in its bytes.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, islice

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from datasets.federation import Federation
from datasets.source import Part
from fedsim.arrays import to_record, to_tensors
from fedsim.averaging import RunningAverage
from fedsim.client_host import PERSONAL, TRAINED
from fedsim.engines.grid import FederationGrid
from fedsim.messages import DOMAIN, EVALUATE_GLOBAL, NUM_EXAMPLES, PART, ROUND, message, metrics_of, number
from fedsim.method import PLAIN, ServerHalf
from fedsim.scoring import CORRECT, CORRECT_BY_CLASS, EXAMPLES_BY_CLASS, LOSS, named, predictor_of

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Measured:
    """A model on a test set."""

    num_examples: int
    correct: int
    loss: float
    """mean over the examples"""
    others: "Mapping[str, Measured]" = field(default_factory=dict)
    """further predictors by name: the method's own, masked ones, and all of them ``adapted`` where ``tta=`` says so"""
    by_class: tuple[tuple[int, int], ...] = ()
    """of each class the images and how many of them are right; of the global model alone"""

    @property
    def accuracy(self) -> float:
        return self.correct / self.num_examples

    @classmethod
    def from_reply(cls, reply: Message) -> "Measured":
        metrics = metrics_of(reply)
        others = [predictor_of(key)[0] for key in metrics if key.endswith(f"-{CORRECT}")]
        return replace(cls._of(PLAIN, metrics), others={name: cls._of(name, metrics) for name in others})

    @classmethod
    def _of(cls, predictor: str, metrics: MetricRecord) -> "Measured":
        by_class: tuple[tuple[int, int], ...] = ()
        if EXAMPLES_BY_CLASS in metrics:
            examples, right = metrics[EXAMPLES_BY_CLASS], metrics[named(predictor, CORRECT_BY_CLASS)]
            assert isinstance(examples, list)
            assert isinstance(right, list)
            by_class = tuple((int(all_), int(some)) for all_, some in zip(examples, right, strict=True))
        return cls(
            num_examples=int(number(metrics, NUM_EXAMPLES)),
            correct=int(number(metrics, named(predictor, CORRECT))),
            loss=number(metrics, named(predictor, LOSS)),
            by_class=by_class,
        )


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


def evaluate(
    grid: FederationGrid,
    strategy: ServerHalf,
    federation: Federation,
    model: Tensors,
    arrays: ArrayRecord,
    round: int,
    successful: Callable[[Iterable[Message], int], Iterable[Message]],
    alike: bool,
) -> Evaluation:
    """Evaluates ``model``, the global one, on each domain, and what the strategy sends of ``arrays`` on all clients.

    Where the clients are ``alike``, all using the model that the server sends and nothing of their own, a client whose
    test set is that of one or more domains has their numbers, computed once. ``successful`` passes the replies on and
    drops, or ends the run for, those that failed.
    """
    complete = to_record(model)
    host = {partition.domain: partition.client for partition in reversed(federation.partitions)}
    names = [*federation.domain_tests, *federation.unseen_tests]
    on_domains = [
        message(EVALUATE_GLOBAL, host.get(name, 0), complete, ConfigRecord({ROUND: round, DOMAIN: name}))
        for name in names
    ]

    def to_clients(part: Part, clients: Collection[int]) -> list[Message]:
        config = ConfigRecord({PART: part.name})
        messages = strategy.configure_evaluate(round, arrays, config, grid) if clients else ()
        return [each for each in messages if each.metadata.dst_node_id in clients]

    on_domain = {c: federation.test_domains(c) for c in federation.clients} if alike else {}
    tests = to_clients(Part.TEST, {client for client in federation.clients if not on_domain.get(client)})
    validations = to_clients(Part.VALIDATION, federation.validated)

    replies = iter(grid.send_and_receive(chain(on_domains, tests, validations)))
    measured = {}
    for name, reply in zip(names, replies, strict=False):
        for ok in successful([reply], 1):  # alone: without one of its domains the global accuracy is another number
            measured[name] = Measured.from_reply(ok)

    def by_client(count: int) -> dict[int, Measured]:
        some = successful(islice(replies, count), count)
        return {reply.metadata.src_node_id: Measured.from_reply(reply) for reply in some}

    tested = by_client(len(tests))
    tested |= {c: pool(measured[name] for name in domains) for c, domains in on_domain.items() if domains}
    return Evaluation(
        clients=dict(sorted(tested.items())),
        domains={name: measured[name] for name in federation.domain_tests},
        unseen={name: measured[name] for name in federation.unseen_tests},
        validation=by_client(len(validations)),
    )


def pool(tested: Iterable[Measured]) -> Measured:
    """One result for several test sets without a common image."""
    parts = list(tested)
    examples = sum(part.num_examples for part in parts)
    classes = [each.by_class for each in parts if each.by_class]
    return Measured(
        num_examples=examples,
        correct=sum(part.correct for part in parts),
        loss=sum(part.loss * part.num_examples for part in parts) / examples,
        others={name: pool(part.others[name] for part in parts) for name in parts[0].others},
        by_class=tuple(
            (sum(images for images, _ in each), sum(right for _, right in each)) for each in zip(*classes, strict=True)
        ),
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
