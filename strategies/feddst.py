"""FedDST (Bibikar et al., AAAI 2022, arXiv 2112.09824): clients look for weights, the server joins what they find."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from torch import nn

from fedsim.aggregation import Aggregation, Mean
from fedsim.core.errors import UserError
from fedsim.cost import Workload
from fedsim.messages.arrays import to_tensors
from fedsim.messages.schema import MASKS, REPLACE
from fedsim.methods.sparse.adjustment import Schedule
from fedsim.methods.sparse.masks import apply, decode, entry, keep_largest, kept, unpack

from .levels import HELD, average_of_holders, with_holders
from .pruned import Pruned


class FedDST(Pruned):
    r"""Every ``interval`` rounds, before ``stop_round``, each client replaces weights while it trains.

    How it does is in ``clients/feddst.py``, and how many, the same for all, in ``Schedule``. What they send then are no
    longer the same weights. With :math:`n_k` images and the mask :math:`m_k` of client k, each is averaged over those
    who hold it:

    .. math:: w_i = \sum_k n_k m_{k,i} w_{k,i} \Big/ \sum_k n_k m_{k,i}

    Of each layer as many as before are kept, those of the largest absolute values, and are the next round's mask.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        image_shape: tuple[int, int, int],
        density: float,
        dense: Sequence[str] = ("first",),
        criterion: str = "magnitude",
        distribution: str = "erk",
        interval: int = 10,
        stop_round: int = 100,
        rate: float = 0.01,
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
            weighting=weighting,
            fraction=fraction,
            seed=seed,
            aggregation=aggregation,
        )
        if client_densities:
            raise UserError(
                "strategy=feddst has every device replace weights of the same network, and budget.classes gives some "
                "a part of it: choose classes that afford as much, or another strategy."
            )
        if not isinstance(self.aggregation, Mean):
            raise UserError(
                "strategy=feddst has clients send other weights of a layer each, which only an average can join: "
                "choose aggregation=mean and privacy=none."
            )
        self.schedule = Schedule(interval, stop_round, rate)
        self._replaced: dict[str, int] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        arrays = self.begun(arrays, server_round, grid)
        self._replaced = self.schedule.counts(server_round, self.masks) if self.schedule.due(server_round) else {}
        config = ConfigRecord({**config, **{f"{REPLACE}{layer}": count for layer, count in self._replaced.items()}})
        return self.send(server_round, arrays, config, grid)

    def received(self, reply: Message) -> dict[str, torch.Tensor]:
        packed = super().received(reply)
        if not self._replaced:
            return packed
        masks = {**self.masks, **decode(to_tensors(reply.content.array_records[MASKS]), self.shapes)}
        return with_holders(unpack(masks, packed), masks)

    def joined(self, average: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if not self._replaced:
            return super().joined(average)
        nothing = {entry(layer): torch.zeros(shape) for layer, shape in self.shapes.items()}
        tensors = average_of_holders(average, nothing)
        # Of weights that are zero, those that nobody holds are left out first.
        scores = {layer: tensors[entry(layer)].abs().where(average[f"{layer}{HELD}"] > 0, -1) for layer in self.masks}
        self.set_masks(keep_largest(scores, kept(self.masks)), tensors)
        return apply(self.masks, tensors)

    def workload(self, client: int) -> Workload:
        """In a round that adjusts, one more batch with dense gradients, of which the largest are collected."""
        load = super().workload(client)
        if not self._replaced:
            return load
        largest = sum(self._replaced.values())
        return replace(load, dense_layers=tuple(self._replaced), dense_steps=1, top_k=largest, extra_steps=1)
