"""FedAvg of a sparse network: most weights are zero on every client and on the server, and only the others travel."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from safetensors.torch import load_file
from torch import nn

from fedsim.arrays import to_record, to_tensors
from fedsim.cost import Workload
from fedsim.errors import UserError
from fedsim.messages import MASKS, TRAIN
from fedsim.pruning.candidates import Counts, erk, uniform
from fedsim.pruning.criteria import magnitude_masks, random_masks, synflow_masks
from fedsim.pruning.masks import Masks, decode, densities, encode, entry, pack, prunable_layers, unpack
from fedsim.seeding import draw_cohort, torch_generator
from strategies.fedavg import FedAvg
from strategies.given import Given

CRITERIA = ("magnitude", "random", "synflow")
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
        ``synflow`` decides over all layers at once.
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
    ) -> None:
        super().__init__(model, weighting=weighting, fraction=fraction, seed=seed)
        if criterion not in CRITERIA:
            raise UserError(f"strategy.criterion={criterion} is not known: choose {', '.join(CRITERIA)}.")
        if distribution not in DISTRIBUTIONS:
            raise UserError(f"strategy.distribution={distribution} is not known: choose {' or '.join(DISTRIBUTIONS)}.")
        self.model, self.image_shape = model, image_shape
        self.density, self.criterion, self.distribution = density, criterion, distribution
        layers = prunable_layers(model, dense)
        parameters = dict(model.named_parameters())
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
        self.masks: Masks = {}
        self.given = Given(MASKS)

    def begin(self, arrays: dict[str, torch.Tensor], server_round: int, grid: Grid) -> dict[str, torch.Tensor]:
        """Chooses what is kept of the dense network; what training starts from."""
        weights = {layer: arrays[entry(layer)] for layer in self.shapes}
        if self.criterion == "synflow":
            self.set_masks(synflow_masks(self.model, self.image_shape, list(self.shapes), self.density))
        elif self.criterion == "random":
            self.set_masks(random_masks(self.shapes, self.counts, torch_generator(self.seed, "masks")))
        else:
            self.set_masks(magnitude_masks(weights, self.counts))
        return arrays

    def begun(self, arrays: ArrayRecord, server_round: int, grid: Grid) -> ArrayRecord:
        """The arrays, once there are masks; in the first round that takes ``begin``."""
        return arrays if self.masks else to_record(self.begin(to_tensors(arrays), server_round, grid))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        arrays = self.begun(arrays, server_round, grid)
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
        return Workload(densities(self.masks))

    def state(self) -> RecordDict:
        return self.given.state()

    def load_state(self, state: RecordDict) -> None:
        self.given.load_state(state)
        self.masks = decode(to_tensors(self.given.record), self.shapes)


def load_pretrained(model: nn.Module, path: str) -> None:
    """Errors: ``UserError`` if the file cannot be read or is another network's."""
    try:
        tensors = load_file(Path(path))
    except (OSError, ValueError) as error:
        raise UserError(f"strategy.pretrained={path} cannot be read: choose a run's model.safetensors.") from error
    expected = model.state_dict()
    if tensors.keys() != expected.keys() or any(tensors[name].shape != expected[name].shape for name in expected):
        raise UserError(f"strategy.pretrained={path} holds another network than this run's: choose the same model.")
    model.load_state_dict(tensors)
