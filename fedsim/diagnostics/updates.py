"""Agreement of the clients' updates by layer, as running sums over their replies."""

from collections.abc import Iterable, Mapping

import torch

from fedsim.core.threads import one_thread

Tensors = Mapping[str, torch.Tensor]


class UpdateStatistics:
    r"""Statistics of the updates :math:`u_k = w_k - w` of the parameters of each layer.

    * ``update_cosine``: the mean cosine over pairs of clients,
      :math:`(\| \sum_k u_k / \| u_k \| \|^2 - K) / (K (K - 1))`; pairs with a client whose weights did not change count
      as 0;
    * ``weight_distance``: the root mean square distance of the clients' weights from their mean, relative to the norm
      of that mean, :math:`\sqrt{\sum_k \| w_k - \bar w \|^2 / K} / \| \bar w \|`.

    All clients have the same weight. Buffers and entries that are not shared are left out. Memory grows with the number
    of weights and not with the number of clients.
    """

    def __init__(self, before: Tensors, parameters: Iterable[str]) -> None:
        """Start the sums.

        Args:
            before: The entries that were sent.
            parameters: The names of the trained parameters.
        """
        self._before = {name: before[name].double() for name in parameters if name in before}
        self._layers: dict[str, list[str]] = {}
        for name in self._before:
            self._layers.setdefault(name.rpartition(".")[0] or name, []).append(name)
        self._count = 0
        self._sums: dict[str, torch.Tensor] = {}
        self._unit_sums: dict[str, torch.Tensor] = {}
        self._squares = dict.fromkeys(self._layers, 0.0)
        self._moved = dict.fromkeys(self._layers, 0)

    @one_thread()
    def add(self, trained: Tensors) -> None:
        """Add the trained entries of one client's reply."""
        self._count += 1
        for layer, names in self._layers.items():
            update = torch.cat(
                [(trained[name].to(self._before[name]) - self._before[name]).flatten() for name in names]
            )
            length = update.norm()
            unit = update / length if length > 0 else update
            self._squares[layer] += length.item() ** 2
            self._moved[layer] += int(length > 0)
            if layer in self._sums:
                self._sums[layer] += update
                self._unit_sums[layer] += unit
            else:
                self._sums[layer], self._unit_sums[layer] = update.clone(), unit.clone()

    def metrics(self) -> dict[str, dict[str, float]]:
        """Return the metrics by layer; empty for fewer than two clients."""
        count = self._count
        if count < 2:
            return {}
        result = {}
        for layer, names in self._layers.items():
            mean_update = self._sums[layer] / count
            mean = torch.cat([self._before[name].flatten() for name in names]) + mean_update
            variance = max(self._squares[layer] / count - mean_update.square().sum().item(), 0.0)  # nan stays nan
            length = mean.norm().item()
            result[layer] = {
                "update_cosine": (self._unit_sums[layer].square().sum().item() - self._moved[layer])
                / (count * (count - 1)),
                "weight_distance": 0.0 if length == 0 else variance**0.5 / length,
            }
        return result
