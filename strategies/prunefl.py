"""PruneFL (Jiang et al., TNNLS 2022, arXiv 1909.12326): gradients of all weights decide which replace the smallest."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from flwr.app import Message
from torch import nn

from fedsim.aggregation import RunningAverage
from fedsim.aggregation.privacy import refuse_noise
from fedsim.core.errors import UserError
from fedsim.cost import Workload
from fedsim.messages.arrays import to_tensors
from fedsim.methods.sparse.adjustment import check_rounds, contested_masks
from fedsim.methods.sparse.masks import apply, entry
from fedsim.methods.sparse.records import SQUARES, SQUARES_SINCE, check_squares
from fedsim.methods.training import ServerTraining

from .fedavg import ConfigValue, Tensors
from .pruned import Pruned


class PruneFL(Pruned):
    r"""Every ``interval`` rounds, before ``stop_round``, small active weights compete with the inactive ones.

    In round t only the share :math:`rate \cdot 0.5^{t / half\_life}` of each layer's active weights that is smallest by
    magnitude may be pruned; the others stay (``contested_masks``). These candidates and all inactive weights, of all
    layers together, compete for the remaining places. The number of active weights stays the same; those are chosen
    with the largest

    .. math:: \sum_k n_k \sum_t \Big( \sum_i g_{k,t,i} \Big)^2

    over the clients k of n_k images (or all weighted the same, ``weighting``), the rounds t since the last adjustment
    and the gradients g of a round's steps i. A newly active weight starts at zero. Clients add up the gradients of
    *all* prunable weights in every round before an adjustment, which takes three times the memory of the dense weights,
    and send the sums in the rounds that adjust; the sums of clients outside the cohort of such a round do not count.

    This is the rule of the authors' code (jiangyuang/PruneFL, b499d3a) at a fixed density and with the same time cost
    for every weight. Its search for the density that learns fastest, by times measured on devices, is left out, so that
    methods can be compared at one density. The authors' code activates a weight with the value that it had when it was
    pruned; here it is zero while it is inactive. With ``rate=1`` every weight may be pruned, and the squared gradients
    alone decide.

    Raises:
        UserError: As ``Pruned``, and if an option is out of its range or the aggregation adds noise.
    """

    def __init__(
        self,
        model: nn.Module,
        training: ServerTraining | None = None,
        *,
        density: float,
        dense: Sequence[str] = ("first",),
        criterion: str = "magnitude",
        distribution: str = "uniform",
        interval: int = 10,
        stop_round: int = 100,
        rate: float = 0.3,
        half_life: float = 10_000,
        pretrained: str | None = None,
    ) -> None:
        super().__init__(
            model,
            training,
            density=density,
            dense=dense,
            criterion=criterion,
            distribution=distribution,
            pretrained=pretrained,
        )
        refuse_noise(self.aggregation, "strategy=prunefl", "the squares of their gradients")
        check_rounds(interval=interval, stop_round=stop_round)
        if not 0 < rate <= 1:
            raise UserError(f"strategy.rate={rate} is not possible: choose a number above 0 and at most 1.")
        if not half_life > 0:
            raise UserError(f"strategy.half_life={half_life} is not possible: choose a number above 0.")
        self.reply_records = MappingProxyType({SQUARES: partial(check_squares, layers=frozenset(self.shapes))})
        self.interval, self.stop_round = interval, stop_round
        self.rate, self.half_life = rate, half_life
        self._adjusts, self._since = False, 0
        self._squares = RunningAverage()

    def round_config(self, server_round: int) -> Mapping[str, ConfigValue]:
        """Return the request for sums, from the first round after an adjustment on, if there will be another."""
        next_adjustment = -(-server_round // self.interval) * self.interval
        self._since = next_adjustment - self.interval + 1 if next_adjustment < self.stop_round else 0
        self._adjusts = self._since > 0 and server_round == next_adjustment
        self._squares = RunningAverage()
        return {SQUARES_SINCE: self._since, SQUARES: self._adjusts} if self._since else {}

    def read_reply(self, reply: Message) -> None:
        """Add the squares that the client reports to the average by layer."""
        super().read_reply(reply)
        if SQUARES in reply.content.array_records:
            self._squares.add(to_tensors(reply.content.array_records[SQUARES]), self.weight(reply))

    def after_aggregation(self, server_round: int, arrays: Tensors) -> Tensors:
        """Return the whole model; in a round that adjusts, choose the next masks and apply them."""
        tensors = super().after_aggregation(server_round, arrays)
        if not self._adjusts:
            return tensors
        weights = {layer: tensors[entry(layer)] for layer in self.masks}
        share = self.rate * 0.5 ** (server_round / self.half_life)
        self.set_masks(contested_masks(self.masks, weights, self._squares.result(), share), tensors)
        return apply(self.masks, tensors)

    def workload(self, client: int) -> Workload:
        """Return the cost of training, including the sums in rounds in which they are requested."""
        return self._with_squares(super().workload(client)) if self._since else super().workload(client)

    def planned(self, size: float | None = None) -> Sequence[Workload]:
        """Return the possible costs of rounds including the sums, which most rounds need."""
        return [self._with_squares(load) for load in super().planned(size)]

    def _with_squares(self, load: Workload) -> Workload:
        """Return the load with dense gradients in every step, and memory for them, their sums and squares of these."""
        return replace(load, full_gradient_layers=tuple(self.shapes), full_gradient_steps=None, full_gradient_vectors=2)
