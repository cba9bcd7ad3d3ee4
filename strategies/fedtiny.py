"""FedTiny (Huang et al., ICDCS 2023, arXiv 2212.01977): pruning in the federation, by what devices can afford."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import nn

from fedsim.aggregation import RunningAverage
from fedsim.aggregation.privacy import refuse_noise
from fedsim.core.errors import UserError
from fedsim.core.seeding import torch_generator
from fedsim.cost import QueryPasses, Workload
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import ARRAYS, CONFIG, arrays_of, metrics_of, number
from fedsim.methods.queries import ask
from fedsim.methods.reply_records import these_entries
from fedsim.methods.sparse.adjustment import Schedule, blocks_of, replace_weights
from fedsim.methods.sparse.candidates import candidate_pool
from fedsim.methods.sparse.criteria import magnitude_masks
from fedsim.methods.sparse.masks import Masks, densities, encode, entry, kept, pack
from fedsim.methods.sparse.records import (
    BN_STATISTICS,
    CANDIDATE_LOSS,
    GRADIENTS,
    GROW,
    MASKS,
    PLACES,
    SHARE,
    VALUES,
    check_largest_gradients,
    check_loss,
)
from fedsim.methods.training import ServerTraining
from fedsim.norms.own_statistics import has_statistics
from fedsim.norms.statistics import statistics_entries

from .fedavg import ConfigValue, Tensors
from .pruned import Pruned

log = logging.getLogger(__name__)


class FedTiny(Pruned):
    """Adaptive BatchNorm selection before the first round, progressive pruning after every ``interval`` rounds.

    **Selection.** For each of ``candidates`` sets of layer densities the network is pruned by magnitude. The clients of
    the first cohort pass ``selection_share`` of their training images through each candidate and return the statistics
    of its BatchNorm layers; the server averages these like weights; the clients return their losses under the average
    statistics, and the candidate of the smallest average loss is trained, starting with those statistics. If
    statistics are not sent (``norm.policy``), or belong to other layers than BatchNorm, each client evaluates a
    candidate with its own statistics, of the same images. Without any running statistics the losses alone decide.

    **Progressive pruning.** See ``fedsim/methods/sparse/adjustment.py``: the clients return the largest gradients of
    inactive weights of one block, and the server averages them like weights, a missing one counting as zero.
    """

    reply_records = MappingProxyType({GRADIENTS: check_largest_gradients})

    def __init__(
        self,
        model: nn.Module,
        training: ServerTraining | None = None,
        *,
        density: float,
        dense: Sequence[str] = ("first",),
        candidates: int = 10,
        selection_share: float = 0.1,
        interval: int = 10,
        stop_round: int = 100,
        rate: float = 0.3,
        blocks: int | Sequence[str] | None = None,
        pretrained: str | None = None,
    ) -> None:
        super().__init__(model, training, density=density, dense=dense, pretrained=pretrained)
        refuse_noise(self.aggregation, "strategy=fedtiny", "statistics, losses and gradients beside the model")
        if not 0 < selection_share <= 1:
            raise UserError(
                f"strategy.selection_share={selection_share} is not possible: choose a number above 0 and at most 1."
            )
        statistics = partial(these_entries, names=frozenset(statistics_entries(model)))
        self.queries = MappingProxyType({BN_STATISTICS: statistics, CANDIDATE_LOSS: check_loss})
        self.selection_share = self.queried_share = selection_share
        self.candidates = candidate_pool(self.shapes, density, candidates, torch_generator(self.seed, "candidates"))
        self.schedule = Schedule(interval, stop_round, rate)
        self.blocks = blocks_of(list(self.shapes), blocks)
        self._grown: dict[str, int] = {}
        self._gradient_sums: dict[str, torch.Tensor] = {}
        self._tried: list[Masks] = []

    def first_model(self, arrays: Tensors, server_round: int, grid: Grid) -> Tensors:
        """Select the candidate of the smallest loss; return the model with the cohort's average statistics under it."""
        weights = {layer: arrays[entry(layer)] for layer in self.shapes}
        names = [name for name in statistics_entries(self.model) if name not in self.personal]
        pool = [magnitude_masks(weights, counts) for counts in self.candidates]
        if len(pool) == 1 and not names:
            self.set_masks(pool[0], arrays)
            return arrays
        if not names and has_statistics(self.model):
            log.info("running statistics do not travel here: each client evaluates candidates with its own")
        elif not names:
            log.warning("this network has no running statistics: candidates are selected by their losses alone")
        cohort = self.cohort(server_round, grid)
        results = [self._try(masks, arrays, cohort, grid, with_statistics=bool(names)) for masks in pool]
        chosen = min(range(len(pool)), key=lambda number: results[number][0])
        log.info(
            "candidate %d of %d was chosen, losses %s", chosen + 1, len(pool), [round(loss, 4) for loss, _ in results]
        )
        self._tried = pool
        self.set_masks(pool[chosen], arrays)
        return {**arrays, **results[chosen][1]}

    def _try(
        self, masks: Masks, arrays: Tensors, cohort: list[int], grid: Grid, *, with_statistics: bool
    ) -> tuple[float, Tensors]:
        """Return the cohort's average loss with a candidate, and the average statistics it was computed with."""
        config = ConfigRecord({SHARE: self.selection_share})
        contents = self._contents(masks, arrays, config, cohort)
        statistics: Tensors = {}
        if with_statistics:
            average = RunningAverage()
            for reply in ask(grid, BN_STATISTICS, contents):
                average.add(to_tensors(arrays_of(reply)), self.weight(reply))
            statistics = average.result()
            content = RecordDict({ARRAYS: to_record(statistics), CONFIG: config})  # the candidate is there already
            contents = dict.fromkeys(contents, content)
        total = weights = 0.0
        for reply in ask(grid, CANDIDATE_LOSS, contents):
            total += self.weight(reply) * number(metrics_of(reply), "loss")
            weights += self.weight(reply)
        return total / weights, statistics

    def _contents(
        self, masks: Masks, arrays: Tensors, config: ConfigRecord, cohort: list[int]
    ) -> dict[int, RecordDict]:
        """Return the content by client that sends each client its submodel of a candidate, for this query only."""
        shared = to_tensors(self.arrays_to_train(to_record(arrays)))
        weights = {layer: arrays[entry(layer)] for layer in masks}
        contents: dict[int, RecordDict] = {}
        for submodel, clients in self.submodels.groups(cohort):
            part = submodel.part_of(masks, weights)
            content = RecordDict(
                {ARRAYS: to_record(pack(part, shared)), MASKS: to_record(encode(part)), CONFIG: config}
            )
            contents |= dict.fromkeys(clients, content)
        return contents

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages to the cohort; in the first round, select a candidate before."""
        self._tried = []
        return super().configure_train(server_round, arrays, config, grid)

    def round_config(self, server_round: int) -> Mapping[str, ConfigValue]:
        """Return the number of gradients of inactive weights to report for each layer of one block, where it is due."""
        self._grown = {}
        if self.schedule.due(server_round):
            block = self.blocks[self.schedule.block(server_round, len(self.blocks))]
            self._grown = self.schedule.counts(server_round, {layer: self.masks[layer] for layer in block})
        self._gradient_sums = {
            layer: torch.zeros(self.shapes[layer].numel(), dtype=torch.float64) for layer in self._grown
        }
        return {f"{GROW}{layer}": count for layer, count in self._grown.items()}

    def read_reply(self, reply: Message) -> None:
        """Add the reported gradients to sums, weighted like the client's weights.

        The sums are not divided by the total weight, since only their ranking matters.
        """
        super().read_reply(reply)
        if GRADIENTS in reply.content.array_records:
            reported = to_tensors(reply.content.array_records[GRADIENTS])
            for layer, total in self._gradient_sums.items():
                places, values = (reported[f"{layer}{kind}"].cpu() for kind in (PLACES, VALUES))
                total.index_add_(0, places.long(), self.weight(reply) * values.double())

    def after_aggregation(self, server_round: int, arrays: Tensors) -> Tensors:
        """Return the whole model; in a round that adjusts, prune weights and activate as many inactive ones."""
        tensors, masks = super().after_aggregation(server_round, arrays), dict(self.masks)
        if not self._grown:
            return tensors
        for layer, count in self._grown.items():
            gradient = self._gradient_sums[layer].view(self.shapes[layer])
            tensors[entry(layer)], masks[layer] = replace_weights(tensors[entry(layer)], masks[layer], gradient, count)
        self.set_masks(masks, tensors)
        return tensors

    def workload(self, client: int) -> Workload:
        """Return the cost of training; a round that adjusts adds a batch with dense gradients, the first the selection.

        A dense-gradient batch is followed by a top-k selection of the gradients.
        """
        submodel = self.submodels.of(client)
        passes = 2 if has_statistics(self.model) else 1
        tried = [self.planned_densities(kept(masks), submodel.density) for masks in self._tried]
        load = self.sparse_load(
            densities(submodel.masks), [QueryPasses(self.selection_share, shares, passes) for shares in tried]
        )
        return replace(
            load,
            full_gradient_layers=tuple(self._grown),
            full_gradient_steps=1 if self._grown else 0,
            top_k=sum(self._grown.values()),
            extra_steps=1 if self._grown else 0,
        )

    def planned(self, size: float | None = None) -> Sequence[Workload]:
        """Return a cost for each candidate: all have the same number of weights, but in layers of different cost."""
        return [self.sparse_load(self.planned_densities(counts, size)) for counts in self.candidates]
