"""The weighted average of many clients' tensors as a running sum: memory does not grow with the number of clients."""

from collections.abc import Mapping

import torch


class RunningAverage:
    r"""Accumulates :math:`\sum_k w_k x_k / \sum_k w_k` entry by entry.

    Floating-point tensors are summed in float64, so that the average of equal tensors is exactly that tensor and the
    order of magnitude of the weights does not matter. Integer tensors (BatchNorm's ``num_batches_tracked``) are
    counters, not weights: the result is their maximum, in their own type.

    Raises:
        ValueError: If names or shapes differ from the first tensors, or all weights are zero.
    """

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self._weight = 0.0
        self._empty = True

    def add(self, tensors: Mapping[str, torch.Tensor], weight: float) -> None:
        first, self._empty = self._empty, False
        if first:
            self._dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
        else:
            check_alike(tensors, self._sums)
        for name, tensor in tensors.items():
            if first:
                floating = tensor.is_floating_point()
                self._sums[name] = tensor.to(torch.float64, copy=True).mul_(weight) if floating else tensor.clone()
                continue
            total = self._sums[name]
            if total.is_floating_point():
                total.add_(tensor.to(total.device), alpha=weight)
            else:
                torch.maximum(total, tensor.to(total.device), out=total)
        self._weight += weight

    def result(self) -> dict[str, torch.Tensor]:
        if self._weight <= 0:
            raise ValueError("there is nothing to average: the weights add up to zero")
        return {
            name: (total / self._weight).to(self._dtypes[name]) if total.is_floating_point() else total
            for name, total in self._sums.items()
        }


def check_alike(tensors: Mapping[str, torch.Tensor], first: Mapping[str, torch.Tensor]) -> None:
    """Refuse a reply whose names or shapes differ from the first one; torch would broadcast the shapes silently.

    Raises:
        ValueError: If they differ.
    """
    if tensors.keys() != first.keys():
        raise ValueError(f"the entries {sorted(tensors.keys() ^ first.keys())} are not in every reply")
    for name, tensor in tensors.items():
        if tensor.shape != first[name].shape:
            raise ValueError(f"{name} has the shape {tuple(tensor.shape)}, others {tuple(first[name].shape)}")
