"""FedAvg of a sparse network: most weights are zero on every client and on the server, and only the others travel."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import nn

from fedsim.aggregation import Mean, RunningAverage
from fedsim.aggregation.privacy import refuse_noise
from fedsim.core.errors import UserError
from fedsim.core.seeding import torch_generator
from fedsim.cost import QueryPasses, Workload
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import ARRAYS, CONFIG, EVALUATE, TRAIN, arrays_of
from fedsim.methods.queries import ask
from fedsim.methods.sparse.candidates import Counts, erk, kept_total, nested, uniform
from fedsim.methods.sparse.criteria import (
    global_masks,
    magnitude_masks,
    random_masks,
    snip_scores,
    synflow_masks,
    synflow_scores,
)
from fedsim.methods.sparse.export import save_pruned
from fedsim.methods.sparse.masks import Masks, apply, densities, entry, pack, trained_layers, unpack
from fedsim.methods.sparse.records import LAYER_GRADIENTS, LAYERS, SHARE, check_gradients
from fedsim.methods.training import ServerTraining
from fedsim.models.pretrained import Pretrained
from fedsim.norms import ScaledWSConv2d, WSConv2d

from .fedavg import FedAvg, Tensors
from .submodels import Submodels, average_of_holders, with_holders

log = logging.getLogger(__name__)

CRITERIA = ("magnitude", "random", "snip", "synflow")
SNIP_SHARE = 0.1
"""The share of a client's training images on which it computes the gradients for SNIP."""
DISTRIBUTIONS = {"uniform": uniform, "erk": erk}


class Pruned(FedAvg):
    """The network is pruned before the first round, and its density does not change after that.

    A layer's active weights are sent as a vector in index order; its mask, as bits or as indices, is sent with a
    client's first message and whenever it has changed. Biases, norm layers and the layers named by ``dense`` stay
    dense.

    ``ServerTraining.client_sizes`` has the smaller densities of clients whose devices cannot afford ``density``. These
    train a submodel, and a weight is averaged over the clients that hold it (``strategies/submodels.py``).

    Args:
        density: The share of active weights among those of all other convolutions and linear layers, exact to the last
            weight.
        dense: Layers that are not pruned.
        criterion: ``magnitude`` and ``random`` prune each layer to the density of ``distribution``; ``synflow``, and
            ``snip`` with gradients from the first cohort, rank the weights of all layers together.
        distribution: Densities of the layers, ``uniform`` or ``erk``.
        pretrained: A ``model.safetensors`` of another run of the same network, which is pruned instead of the initial
            one.

    Raises:
        UserError: If an option is unknown or out of range, a layer that would be pruned is frozen, ``pretrained``
            cannot be loaded, or the aggregation cannot handle submodels or the gradients for SNIP.
        ValueError: If ``synflow`` is used without ``ServerTraining.image_shape``.
    """

    size_option: ClassVar[str] = "density"
    queries = MappingProxyType({LAYER_GRADIENTS: check_gradients})

    def __init__(
        self,
        model: nn.Module,
        training: ServerTraining | None = None,
        *,
        density: float,
        dense: Sequence[str] = ("first",),
        criterion: str = "magnitude",
        distribution: str = "uniform",
        pretrained: str | None = None,
    ) -> None:
        training = ServerTraining() if training is None else training
        super().__init__(model, training)
        if criterion not in CRITERIA:
            raise UserError(f"strategy.criterion={criterion} is not known: choose {', '.join(CRITERIA)}.")
        if distribution not in DISTRIBUTIONS:
            raise UserError(f"strategy.distribution={distribution} is not known: choose {' or '.join(DISTRIBUTIONS)}.")
        if criterion == "snip":
            refuse_noise(self.aggregation, "strategy.criterion=snip", "their gradients")
        self.model = model
        self.density, self.criterion = density, criterion
        layers = trained_layers(model, dense)
        self.standardized = any(isinstance(layer, WSConv2d | ScaledWSConv2d) for layer in layers.values())
        parameters = dict(model.named_parameters())
        self.shapes = {name: parameters[entry(name)].shape for name in layers}
        self.counts: Counts = DISTRIBUTIONS[distribution](self.shapes, density)
        if pretrained is not None:
            Pretrained.read("strategy.pretrained", pretrained).load(model)
        if criterion == "synflow":
            if training.image_shape is None:
                raise ValueError("strategy.criterion=synflow needs ServerTraining.image_shape")
            synflow_scores(model, training.image_shape, list(layers))  # fails before the run if it cannot rank
        self.image_shape = training.image_shape
        self.masks: Masks = {}
        self.submodels = Submodels(training.client_sizes, self.shapes)
        self.sends_one_model = not self.submodels.several
        if self.submodels.several and not isinstance(self.aggregation, Mean):
            raise UserError(
                "budget.classes lets devices train networks of several densities, which only an average can join: "
                "choose aggregation=mean and privacy=none."
            )
        self._before: Tensors = {}
        self._queried = False
        self.queried_share = SNIP_SHARE if criterion == "snip" else 0.0

    def first_model(self, arrays: Tensors, server_round: int, grid: Grid) -> Tensors:
        """Choose the masks for the dense network (``set_masks``); return the model that training starts from."""
        weights = {layer: arrays[entry(layer)] for layer in self.shapes}
        if self.criterion == "snip":
            scores = snip_scores(weights, self._gradients(arrays, server_round, grid))
            masks = global_masks(scores, kept_total(self.shapes, self.density))
        elif self.criterion == "synflow":
            assert self.image_shape is not None
            masks = synflow_masks(self.model, self.image_shape, list(self.shapes), self.density)
        elif self.criterion == "random":
            masks = random_masks(self.shapes, self.counts, torch_generator(self.seed, "masks"))
        else:
            masks = magnitude_masks(weights, self.counts)
        self.set_masks(masks, arrays)
        return arrays

    def _gradients(self, arrays: Tensors, server_round: int, grid: Grid) -> Tensors:
        """Return the cohort's average gradients of the dense network's loss on a share of its images, by layer."""
        config = ConfigRecord({SHARE: SNIP_SHARE, LAYERS: list(self.shapes)})
        content = RecordDict({ARRAYS: self.arrays_to_train(to_record(arrays)), CONFIG: config})
        average = RunningAverage()
        for reply in ask(grid, LAYER_GRADIENTS, dict.fromkeys(self.cohort(server_round, grid), content)):
            average.add(to_tensors(arrays_of(reply)), self.weight(reply))
        return average.result()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages to the cohort: active weights, and the masks for clients that do not have them yet.

        Choose the masks first, in the first round.
        """
        self._queried = not self.masks
        if not self.masks:
            if self.standardized:
                log.warning("a weight of zero is not zero once it is standardized: pruning saves bytes, but no FLOPs")
            arrays = to_record(self.first_model(to_tensors(arrays), server_round, grid))
        config = ConfigRecord({**config, **self.round_config(server_round)})
        self._before = apply(self.masks, to_tensors(self.arrays_to_train(arrays)))
        messages: list[Message] = []
        for submodel, clients in self.submodels.groups(self.cohort(server_round, grid)):
            self.sent = to_record(pack(submodel.masks, self._before))
            messages += submodel.broadcast.attach(self.messages(TRAIN, clients, server_round, self.sent, config))
        return messages

    def read_reply(self, reply: Message) -> None:
        """Record that the client has its masks."""
        super().read_reply(reply)
        client = reply.metadata.src_node_id
        self.submodels.of(client).broadcast.answered(client)

    def reply_tensors(self, reply: Message) -> Tensors:
        """Return the active weights; with several submodels, dense weights and the client's masks."""
        packed = super().reply_tensors(reply)
        if not self.submodels.several:
            return packed
        masks = self.submodels.of(reply.metadata.src_node_id).masks
        return with_holders(unpack(masks, packed), masks)

    def after_aggregation(self, server_round: int, arrays: Tensors) -> Tensors:
        """Return the whole model, with zeros at inactive weights."""
        return average_of_holders(arrays, self._before) if self.submodels.several else unpack(self.masks, arrays)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return messages in the form of training: to each client the active weights of the submodel that it trains."""
        tensors = to_tensors(self.arrays_to_evaluate(arrays))
        messages: list[Message] = []
        for submodel, clients in self.submodels.groups(sorted(grid.get_node_ids())):
            sent = to_record(pack(submodel.masks, tensors))
            messages += submodel.broadcast.attach_to_all(self.messages(EVALUATE, clients, server_round, sent, config))
        return messages

    def set_masks(self, masks: Masks, arrays: Mapping[str, torch.Tensor]) -> None:
        """Replace the masks; ``arrays`` has the weights, by whose magnitude the submodels are chosen."""
        self.masks = masks
        self.submodels.change(masks, {layer: arrays[entry(layer)] for layer in masks})

    def workload(self, client: int) -> Workload:
        """Return the cost of training with this client's masks, in the first round with SNIP's query."""
        asked = self._queried and self.criterion == "snip"
        return self.sparse_load(
            densities(self.submodels.of(client).masks),
            queries=[QueryPasses(SNIP_SHARE, gradients=True)] if asked else [],
        )

    def planned(self, size: float | None = None) -> Sequence[Workload]:
        """Return the cost with the densities of ``counts``.

        A criterion that ranks all layers together will give other densities, which are not known in advance.
        """
        return [self.sparse_load(self.planned_densities(self.counts, size))]

    def planned_densities(self, counts: Counts, size: float | None) -> dict[str, float]:
        """Return the density of each layer on a device of density ``size``; ``None`` for the whole network."""
        part = counts if size is None else nested(counts, self.shapes, size)
        return {layer: count / self.shapes[layer].numel() for layer, count in part.items()}

    def sparse_load(self, shares: Mapping[str, float], queries: Sequence[QueryPasses] = ()) -> Workload:
        """Return the workload with these layer densities; its column ``density`` is over all prunable layers."""
        sizes = {layer: self.shapes[layer].numel() for layer in shares}
        kept = sum(size * shares[layer] for layer, size in sizes.items())
        columns = {"density": kept / sum(sizes.values())} if sizes else {}
        return Workload(shares, queries=queries, columns=columns)

    def export(self, folder: Path, model: Mapping[str, torch.Tensor]) -> None:
        """Write ``pruned.safetensors``, the model in a sparse format, and one such file for each smaller submodel."""
        if self.masks:
            save_pruned(folder / "pruned.safetensors", model, self.masks)
        for density, masks in self.submodels.smaller.items():
            save_pruned(folder / f"pruned_{density:.6g}.safetensors", model, masks)

    def state(self) -> RecordDict:
        """Return the inherited state, the masks, and which clients have them."""
        return RecordDict({**super().state(), **self.submodels.state()})

    def load_state(self, state: RecordDict) -> None:
        """Restore what ``state`` returned."""
        super().load_state(state)
        self.submodels.load_state(state)
        self.masks = self.submodels.whole.masks
