"""What a method makes its devices do in a round, and what the largest of them needs for it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fedsim.client.optimizers import OPTIMIZERS
from fedsim.cost.account import Densities, ModelCost
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
class Workload:
    """How a device trains in a round, how sparse its network is, and what it does beside training it."""

    densities: Densities = field(default_factory=dict)
    """The share of weights kept by the layers that are not dense"""
    dense_layers: Collection[str] = ()
    """The layers of which the gradients of all weights were looked at"""
    dense_steps: int | None = 0
    """in so many steps; None is all of them"""
    dense_copies: int = 0
    """How many further numbers a device keeps for each of their weights, such as sums of those gradients"""
    passes: Sequence[Passes] = (Passes(),)
    """The parts of the training, one after the other"""
    beside: Collection[str] = ()
    """Linear layers that are trained in all of it on what the network computes, and that are not in its own pass"""
    copies: int = 0
    """How many further numbers a device keeps for each one it trains, such as the model that it was sent"""
    top_k: int = 0
    """The (index, value) pairs that a device collected of them; 0 where it held them all"""
    extra_steps: int = 0
    """Batches that the network is given beside its training, for those gradients"""
    selection: Sequence[Densities] = ()
    """The candidate masks that a share of the images was let through before training,"""
    selection_passes: int = 2
    """so many times each"""
    dense_question: bool = False
    """Whether the gradients of a dense network were asked for on that share, before training"""
    share: float = 0.0


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
        """Of a round that these clients were in, the largest of each number (``needs``); where there are classes of
        devices also that of each, under its name."""
        rows: dict[str, Mapping[str, float]] = {}
        for each in self.classes:
            members = [client for client in each.clients if client in clients]
            if members:
                largest = max(members, key=self.images.__getitem__)
                rows[each.name] = self.needs(workload_of(largest), largest)
        named = {f"{key}_{name}": row[key] for name, row in rows.items() if name for key in row}
        return {**_largest(list(rows.values())), **named}

    def most(self, workloads: Sequence[Workload], clients: Collection[int]) -> Mapping[str, float]:
        """The largest of each number over these clients and workloads."""
        largest = max(clients, key=self.images.__getitem__)
        return _largest([self.needs(workload, largest) for workload in workloads])

    def needs(self, workload: Workload, client: int) -> Mapping[str, float]:
        """``device_gflops`` of the round, ``device_memory_mb`` of a training step.

        With masks also ``density``, the share that is kept of the weights that might be masked.
        """
        cost, images = self.cost, self.images[client]
        batch = min(self.batch_size, images)
        epochs = [self.local_epochs if part.epochs is None else part.epochs for part in workload.passes]
        extra = workload.extra_steps * batch
        seen = images * sum(epochs) + extra
        asked = max(1, round(workload.share * images))
        dense = seen if workload.dense_steps is None else min(seen, workload.dense_steps * batch)
        flops = cost.training_flops(extra, workload.densities) + cost.beside_flops(seen - extra, workload.beside)
        for part, times in zip(workload.passes, epochs, strict=True):
            flops += cost.training_flops(images * times, workload.densities, trained=part.trained, through=part.through)
        flops += cost.dense_flops(dense, workload.densities, workload.dense_layers)
        flops += cost.selection_flops(asked, workload.selection, workload.selection_passes - 1)
        if workload.dense_question:
            flops += cost.training_flops(asked)
        memory = max(self._memory(batch, workload, part) for part in workload.passes)
        if workload.dense_question:  # the sums of the gradients are dense, too
            every = [name for name, layer in cost.layers.items() if layer.weights]
            question = cost.device_memory(min(batch, asked), dense_gradients=every, dense_copies=1)
            memory = max(memory, question.total)
        row = {"device_gflops": flops / 1e9, "device_memory_mb": memory / MB}
        if workload.densities:
            layers = {name: self.cost.layers[name].weights for name in workload.densities}
            kept = sum(size * workload.densities[name] for name, size in layers.items())
            row["density"] = kept / sum(layers.values())
        return row

    def _memory(self, batch: int, workload: Workload, part: Passes) -> int:
        """Bytes of a step of that part of the training."""
        return self.cost.device_memory(
            batch,
            workload.densities,
            self.states + workload.copies,
            () if workload.top_k else workload.dense_layers,
            workload.top_k,
            workload.dense_copies,
            part.trained,
        ).total


def _largest(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: max(row[name] for row in rows) for name in rows[0]}
