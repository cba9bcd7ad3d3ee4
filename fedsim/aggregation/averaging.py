"""The weighted average of many clients' tensors as a running sum: memory does not grow with the number of clients."""

from collections.abc import Mapping

import torch

Tensors = Mapping[str, torch.Tensor]


class WeightedSum:
    r"""Accumulates :math:`\sum_k w_k x_k` and :math:`\sum_k w_k`, entry by entry.

    Floating-point tensors are summed in float64. Integer tensors (BatchNorm's ``num_batches_tracked``) are counters,
    not weights: their "sum" is their maximum, in their own type.

    Raises:
        ValueError: If names or shapes differ from the first tensors.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.weight = 0.0
        self._empty = True

    def add(self, tensors: Tensors, weight: float) -> None:
        """Add :math:`w_k x_k`."""
        if self._empty:
            for name, tensor in tensors.items():
                floating = tensor.is_floating_point()
                self.tensors[name] = tensor.to(torch.float64, copy=True).mul_(weight) if floating else tensor.clone()
        else:
            self._accumulate(tensors, weight)
        self._empty = False
        self.weight += weight

    def join(self, sums: Tensors, weight: float) -> None:
        """Add another such sum, whose tensors may be used from now on as this one's."""
        if self._empty:
            self.tensors.update(sums)
        else:
            self._accumulate(sums, 1.0)
        self._empty = False
        self.weight += weight

    def _accumulate(self, tensors: Tensors, weight: float) -> None:
        check_alike(tensors, self.tensors)
        for name, tensor in tensors.items():
            total = self.tensors[name]
            if total.is_floating_point():
                total.add_(tensor.to(total.device), alpha=weight)
            else:
                torch.maximum(total, tensor.to(total.device), out=total)


class RunningAverage:
    r"""Accumulates :math:`\sum_k w_k x_k / \sum_k w_k` entry by entry.

    The sums are in float64 (``WeightedSum``), so that the average of equal tensors is exactly that tensor and the order
    of magnitude of the weights does not matter; the average has the type of the first tensors. Of integer tensors it is
    the maximum.

    Raises:
        ValueError: If names or shapes differ from the first tensors, or all weights are zero.
    """

    def __init__(self) -> None:
        self._total, self._group = WeightedSum(), WeightedSum()
        self._open: str | None = None
        self._dtypes: dict[str, torch.dtype] = {}

    def enter(self, group: str) -> None:
        """Begin a group, unless it is the present one: what follows is added up before it is added to the others."""
        if group != self._open:
            self._leave()
            self._open = group

    def add(self, tensors: Tensors, weight: float) -> None:
        if not self._dtypes:
            self._dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
        self._group.add(tensors, weight)

    def add_summed(self, sums: Tensors, weight: float, like: Tensors) -> None:
        """Add a client whose tensors are in a sum.

        Args:
            sums: The sum, with the last client that is in it; empty for the others.
            weight: The weight of this client.
            like: Tensors of the clients' types.
        """
        if not self._dtypes:
            self._dtypes = {name: tensor.dtype for name, tensor in like.items()}
        if sums:
            self._group.join(sums, weight)
        else:
            self._group.weight += weight

    def result(self) -> dict[str, torch.Tensor]:
        self._leave()
        if self._total.weight <= 0:
            raise ValueError("there is nothing to average: the weights add up to zero")
        return {
            name: (total / self._total.weight).to(self._dtypes[name]) if total.is_floating_point() else total
            for name, total in self._total.tensors.items()
        }

    def _leave(self) -> None:
        if self._group.weight or self._group.tensors:
            self._total.join(self._group.tensors, self._group.weight)
        self._group = WeightedSum()


def check_alike(tensors: Tensors, first: Tensors) -> None:
    """Refuse a reply whose names or shapes differ from the first one; torch would broadcast the shapes silently.

    Raises:
        ValueError: If they differ.
    """
    if tensors.keys() != first.keys():
        raise ValueError(f"the entries {sorted(tensors.keys() ^ first.keys())} are not in every reply")
    for name, tensor in tensors.items():
        if tensor.shape != first[name].shape:
            raise ValueError(f"{name} has the shape {tuple(tensor.shape)}, others {tuple(first[name].shape)}")
