"""FedAvg of a sparse network: most weights are zero on every client and on the server, and only the others travel."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from safetensors.torch import load_file
from torch import nn

from fedsim.aggregation import Aggregation, Mean, RunningAverage
from fedsim.aggregation.privacy import refuse_noise
from fedsim.core.errors import RoundFailed, UserError
from fedsim.core.files import reading
from fedsim.core.seeding import draw_cohort, torch_generator
from fedsim.cost import Workload
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import (
    ARRAYS,
    CONFIG,
    EVALUATE,
    LAYERS,
    QUERY_GRADIENTS,
    SHARE,
    TRAIN,
    arrays_of,
)
from fedsim.methods.sparse.candidates import Counts, erk, kept_total, nested, uniform
from fedsim.methods.sparse.criteria import (
    global_masks,
    magnitude_masks,
    random_masks,
    snip_scores,
    synflow_masks,
    synflow_scores,
)
from fedsim.methods.sparse.masks import Masks, apply, densities, entry, pack, prunable_layers, unpack
from fedsim.norms import ScaledWSConv2d, WSConv2d

from .fedavg import FedAvg
from .levels import Levels, average_of_holders, with_holders

log = logging.getLogger(__name__)

CRITERIA = ("magnitude", "random", "snip", "synflow")
SNIP_SHARE = 0.1
"""Of a client's training images, on which it computes the gradients that SNIP asks for."""
DISTRIBUTIONS = {"uniform": uniform, "erk": erk}


class Pruned(FedAvg):
    """The network is pruned before the first round and stays as sparse as it is then.

    Each layer's kept weights travel as numbers in their order, and the mask, as bits or places, with a client's first
    message and whenever it changed. Biases and norm layers are dense, and so are the layers that ``dense`` names.

    Parameters
    ----------
    density
        The share that is kept of the weights of all other convolutions and linear layers, exact to the last weight.
    criterion
        ``magnitude`` and ``random`` with the ``distribution`` of densities over layers, ``uniform`` or ``erk``;
        ``synflow`` and ``snip``, by gradients that the first cohort is asked for, decide over all layers at once.
    pretrained
        A ``model.safetensors`` of another run of the same network, which is pruned instead of the initial one.
    client_densities
        Smaller densities of clients whose devices cannot afford ``density``: they train a part of what is kept, and a
        weight is averaged over those who hold it (``strategies/levels.py``).
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
        pretrained: str | None = None,
        client_densities: Mapping[int, float] | None = None,
        weighting: str = "examples",
        fraction: float = 1.0,
        seed: int = 0,
        aggregation: Aggregation | None = None,
    ) -> None:
        super().__init__(model, weighting=weighting, fraction=fraction, seed=seed, aggregation=aggregation)
        if criterion not in CRITERIA:
            raise UserError(f"strategy.criterion={criterion} is not known: choose {', '.join(CRITERIA)}.")
        if distribution not in DISTRIBUTIONS:
            raise UserError(f"strategy.distribution={distribution} is not known: choose {' or '.join(DISTRIBUTIONS)}.")
        if criterion == "snip":
            refuse_noise(self.aggregation, "strategy.criterion=snip", "their gradients")
        self.model, self.image_shape = model, image_shape
        self.density, self.criterion = density, criterion
        layers = prunable_layers(model, dense)
        parameters = dict(model.named_parameters())
        self.standardized = any(isinstance(layer, WSConv2d | ScaledWSConv2d) for layer in layers.values())
        frozen = [name for name in layers if not parameters[entry(name)].requires_grad]
        if frozen:
            raise UserError(
                f"strategy.dense={list(dense)} has the layer {frozen[0]} pruned, which is frozen: name it there, or "
                "leave out what freezes it."
            )
        self.shapes = {name: parameters[entry(name)].shape for name in layers}
        self.counts: Counts = DISTRIBUTIONS[distribution](self.shapes, density)
        if pretrained is not None:
            load_pretrained(model, pretrained)
        if criterion == "synflow":
            synflow_scores(model, image_shape, list(layers))  # refuses what it cannot rank, before anything starts
        self.masks: Masks = {}
        self.levels = Levels(client_densities or {}, self.shapes)
        self.alike = not self.levels.several
        if self.levels.several and not isinstance(self.aggregation, Mean):
            raise UserError(
                "budget.classes lets devices train networks of several densities, which only an average can join: "
                "choose aggregation=mean and privacy=none."
            )
        self._first = False
        self.asked_share = SNIP_SHARE if criterion == "snip" else 0.0

    def begin(self, arrays: dict[str, torch.Tensor], server_round: int, grid: Grid) -> dict[str, torch.Tensor]:
        """Chooses what is kept of the dense network; what training starts from."""
        weights = {layer: arrays[entry(layer)] for layer in self.shapes}
        if self.criterion == "snip":
            scores = snip_scores(weights, self._gradients(arrays, server_round, grid))
            masks = global_masks(scores, kept_total(self.shapes, self.density))
        elif self.criterion == "synflow":
            masks = synflow_masks(self.model, self.image_shape, list(self.shapes), self.density)
        elif self.criterion == "random":
            masks = random_masks(self.shapes, self.counts, torch_generator(self.seed, "masks"))
        else:
            masks = magnitude_masks(weights, self.counts)
        self.set_masks(masks, arrays)
        return arrays

    def _gradients(self, arrays: dict[str, torch.Tensor], server_round: int, grid: Grid) -> dict[str, torch.Tensor]:
        """Of the dense network's loss over a share of the first cohort's images, by layer."""
        config = ConfigRecord({SHARE: SNIP_SHARE, LAYERS: list(self.shapes)})
        content = RecordDict({ARRAYS: self.shared(to_record(arrays)), CONFIG: config})
        average = RunningAverage()
        cohort = draw_cohort(list(grid.get_node_ids()), self.fraction, self.seed, server_round)
        for reply in answers([Message(content, client, QUERY_GRADIENTS) for client in cohort], grid):
            average.add(to_tensors(arrays_of(reply)), self.weight(reply))
        return average.result()

    def begun(self, arrays: ArrayRecord, server_round: int, grid: Grid) -> ArrayRecord:
        """The arrays, once there are masks; in the first round that takes ``begin``."""
        self._first = not self.masks
        if self.masks:
            return arrays
        if self.standardized:
            log.warning("a weight of zero is not zero once it is standardized: pruning saves bytes, but no FLOPs")
        return to_record(self.begin(to_tensors(arrays), server_round, grid))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        arrays = self.begun(arrays, server_round, grid)
        return self.send(server_round, arrays, config, grid)

    def send(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """The cohort's messages: what is kept, and the masks for those who have not got them."""
        self._before = apply(self.masks, to_tensors(self.shared(arrays)))
        cohort = draw_cohort(list(grid.get_node_ids()), self.fraction, self.seed, server_round)
        messages: list[Message] = []
        for level, clients in self.levels.groups(cohort):
            sent = to_record(pack(level.masks, self._before))
            messages += level.given.attach(self._messages(TRAIN, clients, server_round, sent, config))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        average, metrics = super().aggregate_train(server_round, self.levels.noted(replies))
        return None if average is None else to_record(self.joined(to_tensors(average))), metrics

    def joined(self, average: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The whole model, of what ``received`` made of each reply, averaged."""
        return average_of_holders(average, self._before) if self.levels.several else unpack(self.masks, average)

    def received(self, reply: Message) -> dict[str, torch.Tensor]:
        """What is kept, and where devices do not keep the same, all weights and who holds them."""
        packed = super().received(reply)
        if not self.levels.several:
            return packed
        masks = self.levels.of(reply.metadata.src_node_id).masks
        return with_holders(unpack(masks, packed), masks)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """To each client the part of the model that it trains."""
        if not self.levels.several:
            return super().configure_evaluate(server_round, arrays, config, grid)
        messages: list[Message] = []
        for level, clients in self.levels.groups(sorted(grid.get_node_ids())):
            sent = apply(level.masks, to_tensors(self.evaluated(arrays)))
            messages += self._messages(EVALUATE, clients, server_round, to_record(sent), config)
        return messages

    def set_masks(self, masks: Masks, arrays: Mapping[str, torch.Tensor]) -> None:
        """``arrays`` has the weights, by which levels know their parts."""
        self.masks = masks
        self.levels.change(masks, {layer: arrays[entry(layer)] for layer in masks})
        self.parts = self.levels.parts

    def workload(self, client: int) -> Workload:
        asked = self._first and self.criterion == "snip"
        return Workload(densities(self.levels.of(client).masks), dense_question=asked, share=SNIP_SHARE)

    def planned(self, density: float | None = None) -> Sequence[Workload]:
        """With the densities of ``counts``; where a criterion over all layers puts the weights is not known before."""
        return [self._planned(self.counts, density)]

    def _planned(self, counts: Counts, density: float | None) -> Workload:
        part = counts if density is None else nested(counts, self.shapes, density)
        return Workload({layer: count / self.shapes[layer].numel() for layer, count in part.items()})

    def state(self) -> RecordDict:
        return RecordDict({**super().state(), **self.levels.state()})

    def load_state(self, state: RecordDict) -> None:
        super().load_state(state)
        self.levels.load_state(state)
        self.masks, self.parts = self.levels.whole.masks, self.levels.parts


def answers(messages: list[Message], grid: Grid) -> Iterator[Message]:
    """What those answer, of all that are asked, that do not fail. Errors: ``RoundFailed`` if all do."""
    answered = False
    for reply in grid.send_and_receive(messages):
        if reply.has_error():
            log.warning(
                "client %d failed: %s",
                reply.metadata.src_node_id,
                (reply.error.reason or "no reason given").partition("\n")[0],
            )
            continue
        answered = True
        yield reply
    if not answered:
        raise RoundFailed(f"all {len(messages)} clients that were asked before training failed")


def load_pretrained(model: nn.Module, path: str) -> None:
    """Errors: ``UserError`` if the file cannot be read or is another network's."""
    with reading(f"strategy.pretrained={path}", "choose a run's model.safetensors"):
        tensors = load_file(Path(path))
    expected = model.state_dict()
    if tensors.keys() != expected.keys() or any(tensors[name].shape != expected[name].shape for name in expected):
        raise UserError(f"strategy.pretrained={path} holds another network than this run's: choose the same model.")
    model.load_state_dict(tensors)
