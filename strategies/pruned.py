"""FedAvg of a sparse network: most weights are zero on every client and on the server, and only the others travel."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from fedsim.aggregation import Aggregation, RunningAverage
from fedsim.arrays import to_record, to_tensors
from fedsim.cost import Workload
from fedsim.errors import RoundFailed, UserError
from fedsim.messages import (
    ARRAYS,
    CONFIG,
    LAYERS,
    MASKS,
    NUM_EXAMPLES,
    QUERY_GRADIENTS,
    SHARE,
    TRAIN,
    arrays_of,
    metrics_of,
    number,
)
from fedsim.norms import ScaledWSConv2d, WSConv2d
from fedsim.privacy import refuse_noise
from fedsim.pruning.candidates import Counts, erk, kept_total, uniform
from fedsim.pruning.criteria import (
    global_masks,
    magnitude_masks,
    random_masks,
    snip_scores,
    synflow_masks,
    synflow_scores,
)
from fedsim.pruning.masks import Masks, decode, densities, encode, entry, pack, prunable_layers, unpack
from fedsim.seeding import draw_cohort, torch_generator
from strategies.fedavg import FedAvg
from strategies.given import Given

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
        self.given = Given(MASKS)
        self._first = False

    def begin(self, arrays: dict[str, torch.Tensor], server_round: int, grid: Grid) -> dict[str, torch.Tensor]:
        """Chooses what is kept of the dense network; what training starts from."""
        weights = {layer: arrays[entry(layer)] for layer in self.shapes}
        if self.criterion == "snip":
            scores = snip_scores(weights, self._gradients(arrays, server_round, grid))
            self.set_masks(global_masks(scores, kept_total(self.shapes, self.density)))
        elif self.criterion == "synflow":
            self.set_masks(synflow_masks(self.model, self.image_shape, list(self.shapes), self.density))
        elif self.criterion == "random":
            self.set_masks(random_masks(self.shapes, self.counts, torch_generator(self.seed, "masks")))
        else:
            self.set_masks(magnitude_masks(weights, self.counts))
        return arrays

    def _gradients(self, arrays: dict[str, torch.Tensor], server_round: int, grid: Grid) -> dict[str, torch.Tensor]:
        """Of the dense network's loss over a share of the first cohort's images, by layer."""
        config = ConfigRecord({SHARE: SNIP_SHARE, LAYERS: list(self.shapes)})
        content = RecordDict({ARRAYS: self.shared(to_record(arrays)), CONFIG: config})
        average = RunningAverage()
        cohort = draw_cohort(list(grid.get_node_ids()), self.fraction, self.seed, server_round)
        for reply in answers(QUERY_GRADIENTS, content, cohort, grid):
            average.add(to_tensors(arrays_of(reply)), number(metrics_of(reply), NUM_EXAMPLES))
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
        sent = pack(self.masks, to_tensors(self.shared(arrays)))
        cohort = draw_cohort(list(grid.get_node_ids()), self.fraction, self.seed, server_round)
        return self.given.attach(self._messages(TRAIN, cohort, server_round, to_record(sent), config))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        average, metrics = super().aggregate_train(server_round, self.given.noted(replies))
        if average is not None:
            average = to_record(unpack(self.masks, to_tensors(average)))
        return average, metrics

    def set_masks(self, masks: Masks) -> None:
        self.masks = masks
        self.given.change(to_record(encode(masks)))

    def workload(self) -> Workload:
        asked = self._first and self.criterion == "snip"
        return Workload(densities(self.masks), dense_question=asked, share=SNIP_SHARE)

    def planned(self) -> Sequence[Workload]:
        """With the densities of ``counts``; where a criterion over all layers puts the weights is not known before."""
        return [self._planned(self.counts)]

    def _planned(self, counts: Counts) -> Workload:
        return Workload({layer: count / self.shapes[layer].numel() for layer, count in counts.items()})

    def state(self) -> RecordDict:
        return RecordDict({**super().state(), **self.given.state()})

    def load_state(self, state: RecordDict) -> None:
        super().load_state(state)
        self.given.load_state(state)
        self.masks = decode(to_tensors(self.given.record), self.shapes)


def answers(type_: str, content: RecordDict, cohort: list[int], grid: Grid) -> Iterator[Message]:
    """What those of a cohort answer that do not fail. Errors: ``RoundFailed`` if all do."""
    answered = False
    for reply in grid.send_and_receive([Message(content, client, type_) for client in cohort]):
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
        raise RoundFailed(f"all {len(cohort)} clients that were asked before training failed")


def load_pretrained(model: nn.Module, path: str) -> None:
    """Errors: ``UserError`` if the file cannot be read or is another network's."""
    try:
        tensors = load_file(Path(path))
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"strategy.pretrained={path} cannot be read: choose a run's model.safetensors.") from error
    expected = model.state_dict()
    if tensors.keys() != expected.keys() or any(tensors[name].shape != expected[name].shape for name in expected):
        raise UserError(f"strategy.pretrained={path} holds another network than this run's: choose the same model.")
    model.load_state_dict(tensors)
