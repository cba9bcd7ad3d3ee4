"""FedDST (Bibikar et al., AAAI 2022, arXiv 2112.09824): clients adjust their masks, and the server merges these."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import torch
from flwr.app import Message
from torch import nn

from fedsim.aggregation import Mean
from fedsim.core.errors import UserError
from fedsim.cost import Workload
from fedsim.messages.arrays import to_tensors
from fedsim.messages.schema import MOVED_ENTRIES
from fedsim.methods.sparse.adjustment import Schedule
from fedsim.methods.sparse.masks import apply, decode, entry, keep_largest, kept, unpack
from fedsim.methods.sparse.records import MASKS, REPLACE, check_masks
from fedsim.methods.training import ServerTraining

from .fedavg import ConfigValue, Tensors
from .pruned import Pruned
from .submodels import HELD, average_of_holders, with_holders


class FedDST(Pruned):
    r"""Every ``interval`` rounds, before ``stop_round``, each client replaces active weights while it trains.

    ``clients/feddst.py`` does the replacement; ``Schedule`` sets the number of weights, the same for all clients. The
    clients' masks differ after that. With :math:`n_k` images and the mask :math:`m_k` of client k, each weight is
    averaged over the clients where it is active:

    .. math:: w_i = \sum_k n_k m_{k,i} w_{k,i} \Big/ \sum_k n_k m_{k,i}

    The next round's mask has as many active weights in each layer as before, those of the largest absolute values.

    Raises:
        UserError: As ``Pruned``, and with device classes of several sizes or another aggregation than the mean.
    """

    reply_records = MappingProxyType({MASKS: check_masks})

    def __init__(
        self,
        model: nn.Module,
        training: ServerTraining | None = None,
        *,
        density: float,
        dense: Sequence[str] = ("first",),
        criterion: str = "magnitude",
        distribution: str = "erk",
        interval: int = 10,
        stop_round: int = 100,
        rate: float = 0.01,
        pretrained: str | None = None,
    ) -> None:
        if training is not None and training.client_sizes:
            raise UserError(
                "strategy=feddst has every device replace weights of the same network, and budget.classes gives some "
                "a part of it: choose classes that afford as much, or another strategy."
            )
        super().__init__(
            model,
            training,
            density=density,
            dense=dense,
            criterion=criterion,
            distribution=distribution,
            pretrained=pretrained,
        )
        if not isinstance(self.aggregation, Mean):
            raise UserError(
                "strategy=feddst has clients send other weights of a layer each, which only an average can join: "
                "choose aggregation=mean and privacy=none."
            )
        self.schedule = Schedule(interval, stop_round, rate)
        self._replaced: dict[str, int] = {}

    def round_config(self, server_round: int) -> Mapping[str, ConfigValue]:
        """Return the number of weights to replace in each layer, in rounds that adjust the masks; else nothing."""
        self._replaced = self.schedule.counts(server_round, self.masks) if self.schedule.due(server_round) else {}
        if not self._replaced:
            return {}
        counts = {f"{REPLACE}{layer}": count for layer, count in self._replaced.items()}
        return {**counts, MOVED_ENTRIES: [entry(layer) for layer in self._replaced]}

    def reply_tensors(self, reply: Message) -> Tensors:
        """Return the reply's tensors; in a round that adjusts, dense ones and the client's own masks."""
        packed = super().reply_tensors(reply)
        if not self._replaced:
            return packed
        masks = {**self.masks, **decode(to_tensors(reply.content.array_records[MASKS]), self.shapes)}
        return with_holders(unpack(masks, packed), masks)

    def after_aggregation(self, server_round: int, arrays: Tensors) -> Tensors:
        """Return the whole model; in a round that adjusts, choose the next masks and apply them."""
        if not self._replaced:
            return super().after_aggregation(server_round, arrays)
        nothing = {entry(layer): torch.zeros(shape) for layer, shape in self.shapes.items()}
        tensors = average_of_holders(arrays, nothing)
        # Among weights that are zero, those that are active on no client are removed first.
        scores = {layer: tensors[entry(layer)].abs().where(arrays[f"{layer}{HELD}"] > 0, -1) for layer in self.masks}
        self.set_masks(keep_largest(scores, kept(self.masks)), tensors)
        return apply(self.masks, tensors)

    def workload(self, client: int) -> Workload:
        """Return the cost of training; a round that adjusts adds a batch with dense gradients and their top k."""
        load = super().workload(client)
        if not self._replaced:
            return load
        return replace(
            load,
            full_gradient_layers=tuple(self._replaced),
            full_gradient_steps=1,
            top_k=sum(self._replaced.values()),
            extra_steps=1,
        )
