"""PruneFL (Jiang et al., TNNLS 2022, arXiv 1909.12326): gradients of all weights decide which take the small ones'
places."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from torch import nn

from fedsim.aggregation import Aggregation, RunningAverage
from fedsim.aggregation.privacy import refuse_noise
from fedsim.core.errors import UserError
from fedsim.cost import Workload
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import SQUARES, SQUARES_SINCE
from fedsim.methods.sparse.adjustment import check_rounds, contested_masks
from fedsim.methods.sparse.masks import apply, entry

from .pruned import Pruned


class PruneFL(Pruned):
    r"""Every ``interval`` rounds, before ``stop_round``, small weights compete with those that are not there.

    Of each layer's active weights only the :math:`rate \cdot 0.5^{t / half\_life}` smallest by magnitude may go, in
    round t; the others stay (``contested_masks``). Those that may go and all inactive weights, of all layers together,
    compete for what is left: as many as before are kept, the largest by

    .. math:: \sum_k n_k \sum_t \Big( \sum_i g_{k,t,i} \Big)^2

    over the clients k of n_k images (or all alike, ``weighting``), the rounds t since the last adjustment and the
    gradients g of a round's steps i. What comes is zero at first. Clients add up the gradients of *all* prunable
    weights in every round before an adjustment, which takes as much memory as the dense weights three times, and send
    the sums in the rounds that adjust; one that is not in such a round's cohort is not heard.

    That is the rule of the authors' code (jiangyuang/PruneFL, b499d3a), at one density and where every weight takes as
    long as another: its search for the density that learns fastest, by times measured on devices, is left out, so that
    methods can be compared at one density. Theirs brings a weight back with the value that it had when it went; here
    it is zero as long as the mask leaves it out. With ``rate=1`` every weight may go, and the squared gradients alone
    decide.
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
        rate: float = 0.3,
        half_life: float = 10_000,
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
        if not 0 < rate <= 1:
            raise UserError(f"strategy.rate={rate} is not possible: choose a number above 0 and at most 1.")
        if not half_life > 0:
            raise UserError(f"strategy.half_life={half_life} is not possible: choose a number above 0.")
        self.interval, self.stop_round = interval, stop_round
        self.rate, self.half_life = rate, half_life
        self._adjusts, self._since = False, 0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Asks for sums from the first round after an adjustment on, if there will be another."""
        next_adjustment = -(-server_round // self.interval) * self.interval
        self._since = next_adjustment - self.interval + 1 if next_adjustment < self.stop_round else 0
        self._adjusts = self._since > 0 and server_round == next_adjustment
        if self._since:
            config = ConfigRecord({**config, SQUARES_SINCE: self._since, SQUARES: self._adjusts})
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        squares = RunningAverage()
        average, metrics = super().aggregate_train(server_round, self._averaged(replies, squares))
        if average is not None and self._adjusts:
            tensors = to_tensors(average)
            weights = {layer: tensors[entry(layer)] for layer in self.masks}
            share = self.rate * 0.5 ** (server_round / self.half_life)
            self.set_masks(contested_masks(self.masks, weights, squares.result(), share), tensors)
            average = to_record(apply(self.masks, tensors))
        return average, metrics

    def _averaged(self, replies: Iterable[Message], average: RunningAverage) -> Iterator[Message]:
        """Passes the replies on and takes from them the squares that they tell, by layer."""
        for reply in replies:
            if not reply.has_error() and SQUARES in reply.content.array_records:
                told: dict[str, torch.Tensor] = to_tensors(reply.content.array_records[SQUARES])
                average.add(told, self.weight(reply))
            yield reply

    def workload(self, client: int) -> Workload:
        return self._with_squares(super().workload(client)) if self._since else super().workload(client)

    def planned(self, density: float | None = None) -> Sequence[Workload]:
        """With the sums, which most rounds need."""
        return [self._with_squares(load) for load in super().planned(density)]

    def _with_squares(self, load: Workload) -> Workload:
        """Every step has dense gradients, and they, their sums and the squares of these are held."""
        return replace(load, dense_layers=tuple(self.shapes), dense_steps=None, dense_copies=2)
