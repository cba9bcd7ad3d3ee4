"""What a method makes its devices do in a round, and what the largest of them needs for it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fedsim.client.optimizers import OPTIMIZERS
from fedsim.cost.account import ModelCost, Shares
from fedsim.cost.device_classes import device_classes

if TYPE_CHECKING:  # strategies need this file: see fedsim/strategies.py
    from datasets.federation import Federation
    from fedsim.config.settings import Settings

MB = 1e6


@dataclass(frozen=True)
class Passes:
    """A part of a client's training: so many passes over its images, and where gradients are in them."""

    epochs: int | None = None
    """``local_epochs`` if that is None"""
    trained: Collection[str] | None = None
    """The layers that are trained; None is all that are not frozen"""
    through: Collection[str] | None = None
    """The layers whose inputs get gradients, on the way to others; None is all"""


@dataclass(frozen=True)
class QueryPasses:
    """What a query before training makes a device do with a share of its images."""

    share: float
    shares: Shares = field(default_factory=dict)
    """The share of each layer's weights that the network in question has, where that is not all"""
    passes: int = 1
    """Forward passes over those images"""
    gradients: bool = False
    """Whether the gradients of all weights are computed instead, and added up"""


@dataclass(frozen=True)
class Workload:
    """How a device trains in a round, how much of the network it has, and what it does beside training it."""

    shares: Shares = field(default_factory=dict)
    """The share of each layer's weights that the device has, for the layers of which it has not all"""
    full_gradient_layers: Collection[str] = ()
    """The layers of which the gradients of all weights are computed, also of those that the device does not have,"""
    full_gradient_steps: int | None = 0
    """in so many steps; None is all of them"""
    full_gradient_vectors: int = 0
    """How many further numbers a device keeps for each of their weights, such as sums of those gradients"""
    passes: Sequence[Passes] = (Passes(),)
    """The parts of the training, one after the other"""
    beside: Collection[str] = ()
    """Linear layers that are trained in all of it on what the network computes, and that are not in its own pass"""
    extra_vectors: int = 0
    """How many further numbers a device keeps for each one it trains, such as the model that it was sent"""
    top_k: int = 0
    """The (index, value) pairs that a device collected of the full gradients; 0 where it held them all"""
    extra_steps: int = 0
    """Batches that the network is given beside its training"""
    queries: Sequence[QueryPasses] = ()
    """What the method asked before training"""
    columns: Mapping[str, float] = field(default_factory=dict)
    """What else the method tells of the device's network, as columns of ``rounds.csv``"""


class CostTracker:
    """Turns workloads into columns of ``rounds.csv``, by the rules of ``account``."""

    def __init__(self, cost: ModelCost, federation: "Federation", settings: "Settings") -> None:
        from datasets.source import Part

        self.cost = cost
        self.images = [federation.num_images(client, Part.TRAIN) for client in federation.clients]
        self.classes = device_classes(settings.budget, range(len(self.images)), settings.seed)
        self.local_epochs, self.batch_size = settings.local_epochs, settings.batch_size
        self.states = OPTIMIZERS[settings.optimizer].numbers_kept(settings.momentum)

    def metrics(self, workload_of: Callable[[int], Workload], clients: Collection[int]) -> dict[str, float]:
        """Return, of a round that these clients were in, the largest of each number (``needs``).

        Where there are classes of devices also that of each, under its name.
        """
        rows: dict[str, Mapping[str, float]] = {}
        for each in self.classes:
            members = [client for client in each.clients if client in clients]
            if members:
                largest = max(members, key=self.images.__getitem__)
                rows[each.name] = self.needs(workload_of(largest), largest)
        named = {f"{key}_{name}": row[key] for name, row in rows.items() if name for key in row}
        return {**_largest(list(rows.values())), **named}

    def most(self, workloads: Sequence[Workload], clients: Collection[int]) -> Mapping[str, float]:
        """Return the largest of each number over these clients and workloads."""
        largest = max(clients, key=self.images.__getitem__)
        return _largest([self.needs(workload, largest) for workload in workloads])

    def needs(self, workload: Workload, client: int) -> Mapping[str, float]:
        """Return ``device_gflops`` of the round, ``device_memory_mb`` of a training step, and the method's columns."""
        cost, images = self.cost, self.images[client]
        batch = min(self.batch_size, images)
        epochs = [self.local_epochs if part.epochs is None else part.epochs for part in workload.passes]
        extra = workload.extra_steps * batch
        seen = images * sum(epochs) + extra
        steps = workload.full_gradient_steps
        full = seen if steps is None else min(seen, steps * batch)
        flops = cost.training_flops(extra, workload.shares) + cost.beside_flops(seen - extra, workload.beside)
        for part, times in zip(workload.passes, epochs, strict=True):
            flops += cost.training_flops(images * times, workload.shares, trained=part.trained, through=part.through)
        flops += cost.full_gradient_flops(full, workload.shares, workload.full_gradient_layers)
        flops += sum(self._query_flops(query, images) for query in workload.queries)
        memory = max(self._memory(batch, workload, part) for part in workload.passes)
        memory = max([memory, *(self._query_memory(query, images, batch) for query in workload.queries)])
        return {"device_gflops": flops / 1e9, "device_memory_mb": memory / MB, **workload.columns}

    def _query_flops(self, query: QueryPasses, images: int) -> int:
        asked = _asked(query, images)
        if query.gradients:
            return self.cost.training_flops(asked, query.shares)
        return self.cost.forward_flops(query.passes * asked, query.shares)

    def _query_memory(self, query: QueryPasses, images: int, batch: int) -> int:
        """Return the bytes of a step that adds up the gradients of all weights; 0 where there are only forward passes,
        which need less than training."""
        if not query.gradients:
            return 0
        every = [name for name, layer in self.cost.layers.items() if layer.weights]
        return self.cost.device_memory(
            min(batch, _asked(query, images)), query.shares, full_gradients=every, full_gradient_vectors=1
        ).total

    def _memory(self, batch: int, workload: Workload, part: Passes) -> int:
        """Return the bytes of a step of that part of the training."""
        return self.cost.device_memory(
            batch,
            workload.shares,
            optimizer_states=self.states + workload.extra_vectors,
            full_gradients=() if workload.top_k else workload.full_gradient_layers,
            top_k=workload.top_k,
            full_gradient_vectors=workload.full_gradient_vectors,
            trained=part.trained,
        ).total


def _asked(query: QueryPasses, images: int) -> int:
    return max(1, round(query.share * images))


def _largest(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: max(row[name] for row in rows) for name in rows[0]}
