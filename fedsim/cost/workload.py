"""The workload of devices in a round, which depends on the method, and its costs."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fedsim.client.optimizers import OPTIMIZERS
from fedsim.cost.account import ModelCost, Shares
from fedsim.cost.device_classes import device_classes
from fedsim.cost.sizes import VALUE_BYTES

if TYPE_CHECKING:  # strategies import this file, also in other apps: see fedsim/strategies.py
    from datasets.federation import Federation
    from fedsim.config.settings import Settings

MB = 1e6


@dataclass(frozen=True)
class Passes:
    """A part of a client's training: a number of passes over its images, and the layers with gradients in them."""

    epochs: int | None = None
    """Number of passes; ``None`` for ``local_epochs``."""
    trained: Collection[str] | None = None
    """The layers that are trained; ``None`` for all that are not frozen."""
    through: Collection[str] | None = None
    """The layers whose inputs get gradients, which go on to other layers; ``None`` for all."""
    steps: int | None = None
    """Number of batches instead of passes; ``None`` for passes."""
    other_flops: int = 0
    """FLOPs for each image outside of the network, such as those of another network."""


@dataclass(frozen=True)
class QueryPasses:
    """The work of a query before or after training, on a share of a client's training images."""

    share: float
    shares: Shares = field(default_factory=dict)
    """The share of active weights of each layer of the queried network, for layers where it is not 1."""
    passes: int = 1
    """Number of forward passes over those images."""
    gradients: bool = False
    """Whether gradients of all weights are computed and added up, instead of forward passes only."""
    most: int | None = None
    """The largest number of images; ``None`` for no limit."""


@dataclass(frozen=True)
class Workload:
    """The work of a device in a round: its training, the active part of its network, and work beside training."""

    shares: Shares = field(default_factory=dict)
    """The share of active weights of each layer on the device, for layers where it is not 1."""
    full_gradient_layers: Collection[str] = ()
    """The layers in which gradients of all weights are computed, including inactive ones."""
    full_gradient_steps: int | None = 0
    """The number of steps in which they are; ``None`` for all steps."""
    full_gradient_vectors: int = 0
    """Further numbers in memory for each weight of these layers, such as sums of the gradients."""
    passes: Sequence[Passes] = (Passes(),)
    """The parts of the training, one after the other."""
    beside: Collection[str] = ()
    """Linear layers that are trained on the network's features in all parts, and are not in its own forward pass."""
    extra_vectors: int = 0
    """Further numbers in memory for each trained number, such as a copy of the received model."""
    other_numbers: int = 0
    """Numbers in memory outside of the network, such as another network's weights, gradients and momentum."""
    top_k: int = 0
    """The number of (index, value) pairs that a device collects from the full gradients; 0 if it holds all of them."""
    extra_steps: int = 0
    """The number of batches beside training."""
    queries: Sequence[QueryPasses] = ()
    """The queries of the method before and after training."""
    columns: Mapping[str, float] = field(default_factory=dict)
    """Further numbers of the device's network, as columns of ``rounds.csv``."""


class CostTracker:
    """Computes columns of ``rounds.csv`` from workloads, by the rules of ``account``."""

    def __init__(self, cost: ModelCost, federation: "Federation", settings: "Settings") -> None:
        from datasets.examples import images_of_pass
        from datasets.source import Part

        self.cost = cost
        self.images = [federation.num_images(client, Part.TRAIN) for client in federation.clients]
        self.classes = device_classes(settings.budget, range(len(self.images)), settings.seeds.split)
        self._class_of = {client: each.name for each in self.classes for client in each.clients}
        self.local_epochs, self.batch_size = settings.local_epochs, settings.batch_size
        self._of_pass = [
            images_of_pass(images, settings.batch_size, drop_last=settings.drop_last) for images in self.images
        ]
        self.states = OPTIMIZERS[settings.optimizer].numbers_kept(settings.momentum)

    def metrics(self, workload_of: Callable[[int], Workload], clients: Collection[int]) -> dict[str, float]:
        """Return the largest of each cost (``needs``) over the clients of a round.

        With classes of devices, the costs of each class are added under its name. The costs of a class are those of its
        client with the most images.
        """
        members: dict[str, list[int]] = {each.name: [] for each in self.classes}
        for client in sorted(clients):  # the cohort, not the population, which may be far larger
            members[self._class_of[client]].append(client)
        largest = {name: max(those, key=self.images.__getitem__) for name, those in members.items() if those}
        rows = {name: self.needs(workload_of(client), client) for name, client in largest.items()}
        named = {f"{key}_{name}": row[key] for name, row in rows.items() if name for key in row}
        return {**_largest(list(rows.values())), **named}

    def most(self, workloads: Sequence[Workload], clients: Collection[int]) -> Mapping[str, float]:
        """Return the largest of each cost over these workloads, for the one of these clients with the most images."""
        largest = max(clients, key=self.images.__getitem__)
        return _largest([self.needs(workload, largest) for workload in workloads])

    def needs(self, workload: Workload, client: int) -> Mapping[str, float]:
        """Return ``device_gflops`` of the round, ``device_memory_mb`` of a training step, and the method's columns."""
        cost, images = self.cost, self.images[client]
        batch = min(self.batch_size, images)
        used = [self._images_used(part, self._of_pass[client], batch) for part in workload.passes]
        extra = workload.extra_steps * batch
        seen = sum(used) + extra
        steps = workload.full_gradient_steps
        full = seen if steps is None else min(seen, steps * batch)
        flops = cost.training_flops(extra, workload.shares) + cost.beside_flops(seen - extra, workload.beside)
        for part, count in zip(workload.passes, used, strict=True):
            flops += cost.training_flops(count, workload.shares, trained=part.trained, through=part.through)
            flops += count * part.other_flops
        flops += cost.full_gradient_flops(full, workload.shares, workload.full_gradient_layers)
        flops += sum(self._query_flops(query, images) for query in workload.queries)
        memory = max(self._memory(batch, workload, part) for part in workload.passes)
        memory = max([memory, *(self._query_memory(query, images, batch) for query in workload.queries)])
        memory += VALUE_BYTES * workload.other_numbers
        return {"device_gflops": flops / 1e9, "device_memory_mb": memory / MB, **workload.columns}

    def _images_used(self, part: Passes, of_pass: int, batch: int) -> int:
        """Return the number of images in this part of the training, each counted as often as it is used."""
        if part.steps is not None:
            passes, further = divmod(part.steps, max(1, -(-of_pass // batch)))
            return passes * of_pass + further * batch
        return of_pass * (self.local_epochs if part.epochs is None else part.epochs)

    def _query_flops(self, query: QueryPasses, images: int) -> int:
        asked = _asked(query, images)
        if query.gradients:
            return self.cost.training_flops(asked, query.shares)
        return self.cost.forward_flops(query.passes * asked, query.shares)

    def _query_memory(self, query: QueryPasses, images: int, batch: int) -> int:
        """Return the bytes of a step that adds up the gradients of all weights.

        0 for queries with forward passes only, which need less memory than training.
        """
        if not query.gradients:
            return 0
        every = [name for name, layer in self.cost.layers.items() if layer.weights]
        return self.cost.device_memory(
            min(batch, _asked(query, images)), query.shares, full_gradients=every, full_gradient_vectors=1
        ).total

    def _memory(self, batch: int, workload: Workload, part: Passes) -> int:
        """Return the bytes of a step in this part of the training."""
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
    asked = max(1, round(query.share * images))
    return asked if query.most is None else min(asked, query.most)


def _largest(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for row in rows for name in row)  # a method may tell more of some devices
    return {name: max(row[name] for row in rows if name in row) for name in names}
