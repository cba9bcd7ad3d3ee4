"""PruneFL (Jiang et al., TNNLS 2022, arXiv 1909.12326): which weights are kept follows the gradients of all of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from torch import nn

from fedsim.aggregation import Aggregation, RunningAverage
from fedsim.arrays import to_record, to_tensors
from fedsim.cost import Workload
from fedsim.messages import NUM_EXAMPLES, SQUARES, metrics_of, number
from fedsim.privacy import refuse_noise
from fedsim.pruning.adjustment import check_rounds
from fedsim.pruning.candidates import kept_total
from fedsim.pruning.criteria import global_masks
from fedsim.pruning.masks import apply

from .pruned import Pruned


class PruneFL(Pruned):
    """Every ``interval`` rounds, before ``stop_round``, the weights with the largest squared gradients are kept.

    In such a round each client adds up the squares of the gradients of *all* prunable weights over its batches, which
    takes as much memory as the dense weights, and sends the mean. The server averages them by examples and keeps the
    largest of all layers together, as many as before and at least one of each layer; what comes is zero at first. That
    is the paper's choice where every weight takes as long as another; its search for the density that learns fastest
    is left out, so that methods can be compared at one density.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        image_shape: tuple[int, int, int],
        density: float,
        dense: Sequence[str] = ("first",),
        criterion: str = "magnitude",
        distribution: str = "uniform",
        interval: int = 10,
        stop_round: int = 100,
        pretrained: str | None = None,
        client_densities: Mapping[int, float] | None = None,
        weighting: str = "examples",
        fraction: float = 1.0,
        seed: int = 0,
        aggregation: Aggregation | None = None,
    ) -> None:
        super().__init__(
            model,
            image_shape=image_shape,
            density=density,
            dense=dense,
            criterion=criterion,
            distribution=distribution,
            pretrained=pretrained,
            client_densities=client_densities,
            weighting=weighting,
            fraction=fraction,
            seed=seed,
            aggregation=aggregation,
        )
        refuse_noise(self.aggregation, "strategy=prunefl", "the squares of their gradients")
        check_rounds(interval=interval, stop_round=stop_round)
        self.interval, self.stop_round = interval, stop_round
        self._adjusts = False

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._adjusts = server_round % self.interval == 0 and server_round < self.stop_round
        config = ConfigRecord({**config, SQUARES: self._adjusts})
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        squares = RunningAverage()
        average, metrics = super().aggregate_train(server_round, _averaged(replies, squares))
        if average is not None and self._adjusts:
            tensors = to_tensors(average)
            self.set_masks(global_masks(squares.result(), kept_total(self.shapes, self.density)), tensors)
            average = to_record(apply(self.masks, tensors))
        return average, metrics

    def workload(self, client: int) -> Workload:
        """In a round that adjusts, every step has dense gradients, and they are held."""
        if not self._adjusts:
            return super().workload(client)
        return replace(super().workload(client), dense_layers=tuple(self.shapes), dense_steps=None)


def _averaged(replies: Iterable[Message], average: RunningAverage) -> Iterator[Message]:
    """Passes the replies on and takes from them the squares that they tell, by layer."""
    for reply in replies:
        if not reply.has_error() and SQUARES in reply.content.array_records:
            told: dict[str, torch.Tensor] = to_tensors(reply.content.array_records[SQUARES])
            average.add(told, number(metrics_of(reply), NUM_EXAMPLES))
        yield reply
