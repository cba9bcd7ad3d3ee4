"""FedTiny (Huang et al., ICDCS 2023, arXiv 2212.01977): pruning in the federation, by what devices can afford."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from torch import nn

from fedsim.aggregation import Aggregation, RunningAverage
from fedsim.aggregation.privacy import refuse_noise
from fedsim.core.errors import UserError
from fedsim.core.seeding import draw_cohort, torch_generator
from fedsim.cost import Workload
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import (
    ARRAYS,
    CONFIG,
    GRADIENTS,
    GROW,
    MASKS,
    PLACES,
    QUERY_BN_STATISTICS,
    QUERY_CANDIDATE_LOSS,
    SHARE,
    VALUES,
    arrays_of,
    metrics_of,
    number,
)
from fedsim.methods.sparse.adjustment import Schedule, blocks_of, replace_weights
from fedsim.methods.sparse.candidates import candidate_pool
from fedsim.methods.sparse.criteria import magnitude_masks
from fedsim.methods.sparse.masks import Masks, densities, encode, entry, kept, pack
from fedsim.norms.own_statistics import has_statistics
from fedsim.norms.statistics import statistics_entries

from .pruned import Pruned, answers

log = logging.getLogger(__name__)


class FedTiny(Pruned):
    """Adaptive BatchNorm selection before the first round, progressive pruning after every ``interval`` rounds.

    **Selection.** Each of ``candidates`` sets of layer densities is pruned by magnitude. The first cohort lets
    ``selection_share`` of its training images through each candidate and returns statistics of its BatchNorm layers;
    the server averages them as it averages weights; the cohort returns its losses under the average, and the candidate
    of the smallest one is trained, with those statistics. Where statistics do not travel (``norm.policy``), or are of
    other layers than BatchNorm, each client evaluates a candidate with statistics of its own, of the same images.
    Without any running statistics the losses alone decide.

    **Progressive pruning.** See ``fedsim/methods/sparse/adjustment.py``: the clients return the largest gradients of
    inactive weights of one block, and the server averages them as it averages weights, a missing one being zero.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        image_shape: tuple[int, int, int],
        density: float,
        dense: Sequence[str] = ("first",),
        candidates: int = 10,
        selection_share: float = 0.1,
        interval: int = 10,
        stop_round: int = 100,
        rate: float = 0.3,
        blocks: int | Sequence[str] | None = None,
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
            pretrained=pretrained,
            client_densities=client_densities,
            weighting=weighting,
            fraction=fraction,
            seed=seed,
            aggregation=aggregation,
        )
        refuse_noise(self.aggregation, "strategy=fedtiny", "statistics, losses and gradients beside the model")
        if not 0 < selection_share <= 1:
            raise UserError(
                f"strategy.selection_share={selection_share} is not possible: choose a number above 0 and at most 1."
            )
        self.selection_share = self.asked_share = selection_share
        self.candidates = candidate_pool(self.shapes, density, candidates, torch_generator(seed, "candidates"))
        self.schedule = Schedule(interval, stop_round, rate)
        self.blocks = blocks_of(list(self.shapes), blocks)
        self._grown: dict[str, int] = {}
        self._selected: list[Masks] = []

    def begin(self, arrays: dict[str, torch.Tensor], server_round: int, grid: Grid) -> dict[str, torch.Tensor]:
        """The candidate of the smallest loss, with the statistics its cohort has under it."""
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
        cohort = draw_cohort(list(grid.get_node_ids()), self.fraction, self.seed, server_round)
        tried = [self._try(masks, arrays, bool(names), cohort, grid) for masks in pool]
        chosen = min(range(len(pool)), key=lambda number: tried[number][0])
        log.info(
            "candidate %d of %d was chosen, losses %s", chosen + 1, len(pool), [round(loss, 4) for loss, _ in tried]
        )
        self._selected = pool
        self.set_masks(pool[chosen], arrays)
        return {**arrays, **tried[chosen][1]}

    def _try(
        self, masks: Masks, arrays: dict[str, torch.Tensor], with_statistics: bool, cohort: list[int], grid: Grid
    ) -> tuple[float, dict[str, torch.Tensor]]:
        """The cohort's loss with a candidate, and the averaged statistics it was computed with."""
        config = ConfigRecord({SHARE: self.selection_share})
        contents = self._contents(masks, arrays, config, cohort)
        statistics: dict[str, torch.Tensor] = {}
        if with_statistics:
            average = RunningAverage()
            asked = [Message(content, client, QUERY_BN_STATISTICS) for client, content in contents.items()]
            for reply in answers(asked, grid):
                average.add(to_tensors(arrays_of(reply)), self.weight(reply))
            statistics = average.result()
            content = RecordDict({ARRAYS: to_record(statistics), CONFIG: config})  # the candidate is there already
            contents = dict.fromkeys(contents, content)
        total = weights = 0.0
        asked = [Message(content, client, QUERY_CANDIDATE_LOSS) for client, content in contents.items()]
        for reply in answers(asked, grid):
            total += self.weight(reply) * number(metrics_of(reply), "loss")
            weights += self.weight(reply)
        return total / weights, statistics

    def _contents(
        self, masks: Masks, arrays: dict[str, torch.Tensor], config: ConfigRecord, cohort: list[int]
    ) -> dict[int, RecordDict]:
        """What brings each client of the cohort its part of a candidate."""
        shared = to_tensors(self.shared(to_record(arrays)))
        weights = {layer: arrays[entry(layer)] for layer in masks}
        contents: dict[int, RecordDict] = {}
        for level, clients in self.levels.groups(cohort):
            part = level.part_of(masks, weights)
            content = RecordDict(
                {ARRAYS: to_record(pack(part, shared)), MASKS: to_record(encode(part)), CONFIG: config}
            )
            contents |= dict.fromkeys(clients, content)
        return contents

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._grown, self._selected = {}, []
        arrays = self.begun(arrays, server_round, grid)
        if self.schedule.due(server_round):
            block = self.blocks[self.schedule.block(server_round, len(self.blocks))]
            self._grown = self.schedule.counts(server_round, {layer: self.masks[layer] for layer in block})
        config = ConfigRecord({**config, **{f"{GROW}{layer}": count for layer, count in self._grown.items()}})
        return self.send(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        gradients = {layer: torch.zeros(self.shapes[layer].numel(), dtype=torch.float64) for layer in self._grown}
        average, metrics = super().aggregate_train(server_round, self._summed(replies, gradients))
        if average is not None and self._grown:
            average = self._adjusted(average, gradients)
        return average, metrics

    def _adjusted(self, arrays: ArrayRecord, gradients: dict[str, torch.Tensor]) -> ArrayRecord:
        tensors, masks = to_tensors(arrays), dict(self.masks)
        for layer, count in self._grown.items():
            gradient = gradients[layer].view(self.shapes[layer])
            tensors[entry(layer)], masks[layer] = replace_weights(tensors[entry(layer)], masks[layer], gradient, count)
        self.set_masks(masks, tensors)
        return to_record(tensors)

    def _summed(self, replies: Iterable[Message], sums: dict[str, torch.Tensor]) -> Iterator[Message]:
        """Adds up the gradients that replies report, each as much as its weights; only the order of the sums will
        matter."""
        for reply in replies:
            if not reply.has_error() and GRADIENTS in reply.content.array_records:
                told = to_tensors(reply.content.array_records[GRADIENTS])
                for layer, total in sums.items():
                    places, values = (told[f"{layer}{kind}"].cpu() for kind in (PLACES, VALUES))
                    total.index_add_(0, places.long(), self.weight(reply) * values.double())
            yield reply

    def workload(self, client: int) -> Workload:
        """In a round that adjusts, one more batch with dense gradients; in the first one, the selection."""
        level = self.levels.of(client)
        return Workload(
            densities=densities(level.masks),
            dense_layers=tuple(self._grown),
            dense_steps=1 if self._grown else 0,
            top_k=sum(self._grown.values()),
            extra_steps=1 if self._grown else 0,
            selection=[self._planned(kept(masks), level.density).densities for masks in self._selected],
            selection_passes=2 if has_statistics(self.model) else 1,
            share=self.selection_share,
        )

    def planned(self, density: float | None = None) -> Sequence[Workload]:
        """One for each candidate: they have as many weights, but not where they cost as much."""
        return [self._planned(counts, density) for counts in self.candidates]
