"""Devices of several sizes: small ones train a submodel of the network that large ones train.

A submodel is nested in the next larger one: it has the weights of each layer that are largest by magnitude when the
masks are made. A weight is averaged over the clients that hold it, as in HeteroFL (Diao et al., ICLR 2021,
arXiv 2010.01264), whose submodels are the first channels of each layer.
"""

from collections.abc import Iterable, Mapping

import torch
from flwr.app import RecordDict

from fedsim.messages.arrays import to_record, to_tensors
from fedsim.methods.cached_broadcast import HOLDERS, CachedBroadcast
from fedsim.methods.sparse.candidates import Shapes
from fedsim.methods.sparse.criteria import nested_masks
from fedsim.methods.sparse.masks import Masks, Tensors, decode, encode, entry
from fedsim.methods.sparse.records import MASKS

HELD = "/held"
"""Suffix of a layer's name in the averaged tensors: its mask, 1 where a reply holds a weight and else 0."""


class Submodel:
    """The part of the network that the devices of one density train; density ``None`` is the server's whole network."""

    def __init__(self, density: float | None) -> None:
        self.density = density
        self.masks: Masks = {}
        self.broadcast = CachedBroadcast(MASKS)

    def part_of(self, masks: Masks, weights: Tensors) -> Masks:
        """Return the masks of this submodel in a network with ``masks`` and ``weights``, both by layer."""
        return masks if self.density is None else nested_masks(masks, weights, self.density)


class Submodels:
    """The submodels and the assignment of clients to them."""

    def __init__(self, client_densities: Mapping[int, float], shapes: Shapes) -> None:
        """Create the submodels.

        Args:
            client_densities: Density by client, for the clients that do not train the whole network.
            shapes: Shape of the weight of each prunable layer.
        """
        self.whole = Submodel(None)
        smaller = {density: Submodel(density) for density in sorted(set(client_densities.values()), reverse=True)}
        self._of = {client: smaller[density] for client, density in client_densities.items()}
        self._all = [self.whole, *smaller.values()]
        self._shapes = shapes

    @property
    def several(self) -> bool:
        """Whether there is a submodel beside the whole network."""
        return len(self._all) > 1

    @property
    def smaller(self) -> dict[float, Masks]:
        """The masks of the smaller submodels, by density."""
        return {each.density: each.masks for each in self._all if each.density is not None}

    def of(self, client: int) -> Submodel:
        """Return the submodel that a client trains."""
        return self._of.get(client, self.whole)

    def groups(self, clients: Iterable[int]) -> list[tuple[Submodel, list[int]]]:
        """Return each submodel that any of the clients trains, with the clients that train it."""
        clients = list(clients)
        groups = [(each, [client for client in clients if self.of(client) is each]) for each in self._all]
        return [(each, members) for each, members in groups if members]

    def change(self, masks: Masks, weights: Tensors) -> None:
        """Replace the masks by others, which no client has yet."""
        for each in self._all:
            each.masks = each.part_of(masks, weights)
            each.broadcast.change(to_record(encode(each.masks)))

    def state(self) -> RecordDict:
        """Return the state for a checkpoint: the masks, and which clients have them."""
        return RecordDict(
            {
                f"{name}{_mark(number)}": record
                for number, each in enumerate(self._all)
                for name, record in each.broadcast.state().items()
            }
        )

    def load_state(self, state: RecordDict) -> None:
        """Restore what ``state`` returned."""
        for number, each in enumerate(self._all):
            names = (*each.broadcast.state(), HOLDERS)  # the last as older checkpoints call it
            mine = {name: f"{name}{_mark(number)}" for name in names}
            each.broadcast.load_state(RecordDict({name: state[key] for name, key in mine.items() if key in state}))
            each.masks = decode(to_tensors(each.broadcast.record), self._shapes)


def with_holders(tensors: Tensors, masks: Masks) -> dict[str, torch.Tensor]:
    """Return a reply's dense tensors and its masks as floats under ``HELD`` names, which are averaged with them."""
    held = {f"{layer}{HELD}": mask.to(tensors[entry(layer)].device).double() for layer, mask in masks.items()}
    return {**tensors, **held}


def average_of_holders(average: Tensors, before: Tensors) -> dict[str, torch.Tensor]:
    """Return the average of each weight over the clients that hold it; a weight that none holds is as ``before``."""
    result = {name: tensor for name, tensor in average.items() if not name.endswith(HELD)}
    for name, share in average.items():
        if name.endswith(HELD):
            weight = entry(name.removesuffix(HELD))
            mean = (result[weight] / share).to(result[weight].dtype)
            result[weight] = mean.where(share > 0, before[weight].to(mean.device))
    return result


def _mark(number: int) -> str:
    """Return the suffix of the names of a submodel's records; empty for the whole network, number 0."""
    return f"/{number}" if number else ""
