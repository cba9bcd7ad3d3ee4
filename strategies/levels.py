"""Devices of several sizes: small ones train a part of the network that large ones train.

The part of a level is nested in that of the next larger one: of each layer the weights that are largest when the masks
are made. As in HeteroFL (Diao et al., ICLR 2021, arXiv 2010.01264), whose parts are the first channels of each layer, a
weight is averaged over those who hold it.
"""

from collections.abc import Iterable, Iterator, Mapping

import torch
from flwr.app import Message, RecordDict

from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import MASKS
from fedsim.methods.sparse.candidates import Shapes
from fedsim.methods.sparse.criteria import nested_masks
from fedsim.methods.sparse.masks import Masks, Tensors, decode, encode, entry

from .given import Given

HELD = "/held"
"""After the name of a layer, in what is averaged: one where a reply holds a weight, and else zero."""


class Level:
    """The devices of one density, and what they train; ``None`` is all that the server keeps."""

    def __init__(self, density: float | None) -> None:
        self.density = density
        self.masks: Masks = {}
        self.given = Given(MASKS)

    def part_of(self, masks: Masks, weights: Tensors) -> Masks:
        """What this level has of a network with those masks; ``weights`` are the layers'."""
        return masks if self.density is None else nested_masks(masks, weights, self.density)


class Levels:
    """Which client has which level."""

    def __init__(self, client_densities: Mapping[int, float], shapes: Shapes) -> None:
        """``client_densities`` names the clients that do not train all that the server keeps."""
        self.whole = Level(None)
        sparser = {density: Level(density) for density in sorted(set(client_densities.values()), reverse=True)}
        self._of = {client: sparser[density] for client, density in client_densities.items()}
        self._all = [self.whole, *sparser.values()]
        self._shapes = shapes

    @property
    def several(self) -> bool:
        return len(self._all) > 1

    @property
    def parts(self) -> dict[float, Masks]:
        """The masks of those who do not have the whole, by density."""
        return {level.density: level.masks for level in self._all if level.density is not None}

    def of(self, client: int) -> Level:
        return self._of.get(client, self.whole)

    def groups(self, clients: Iterable[int]) -> list[tuple[Level, list[int]]]:
        """Those of the clients that have a level, for each level that any of them has."""
        clients = list(clients)
        groups = [(level, [client for client in clients if self.of(client) is level]) for level in self._all]
        return [(level, members) for level, members in groups if members]

    def change(self, masks: Masks, weights: Tensors) -> None:
        """From now on these are the masks, which nobody has."""
        for level in self._all:
            level.masks = level.part_of(masks, weights)
            level.given.change(to_record(encode(level.masks)))

    def noted(self, replies: Iterable[Message]) -> Iterator[Message]:
        """Passes the replies on; only a client that has answered has kept its masks."""
        for reply in replies:
            yield from self.of(reply.metadata.src_node_id).given.noted([reply])

    def state(self) -> RecordDict:
        """What a checkpoint must hold of it."""
        return RecordDict(
            {
                f"{name}{_mark(number)}": record
                for number, level in enumerate(self._all)
                for name, record in level.given.state().items()
            }
        )

    def load_state(self, state: RecordDict) -> None:
        for number, level in enumerate(self._all):
            names = level.given.state()
            level.given.load_state(RecordDict({name: state[f"{name}{_mark(number)}"] for name in names}))
            level.masks = decode(to_tensors(level.given.record), self._shapes)


def with_holders(tensors: Tensors, masks: Masks) -> dict[str, torch.Tensor]:
    """A reply's whole tensors and, for the average, which of their weights it holds."""
    held = {f"{layer}{HELD}": mask.to(tensors[entry(layer)].device).double() for layer, mask in masks.items()}
    return {**tensors, **held}


def average_of_holders(average: Tensors, before: Tensors) -> dict[str, torch.Tensor]:
    """The average of each weight over those who hold it; a weight that nobody does stays what it was ``before``."""
    result = {name: tensor for name, tensor in average.items() if not name.endswith(HELD)}
    for name, share in average.items():
        if name.endswith(HELD):
            weight = entry(name.removesuffix(HELD))
            mean = (result[weight] / share).to(result[weight].dtype)
            result[weight] = mean.where(share > 0, before[weight].to(mean.device))
    return result


def _mark(number: int) -> str:
    """After the names of what a checkpoint has of a level; nothing for the first, which is often the only one."""
    return f"/{number}" if number else ""
