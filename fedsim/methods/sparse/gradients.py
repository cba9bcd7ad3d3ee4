"""The largest gradients of inactive weights: a dense implementation for simulations and one for real devices.

In FedTiny (Huang et al., ICDCS 2023, arXiv 2212.01977) a device reports the a_t inactive weights of a layer with the
largest gradients, and the paper states that a buffer of O(a_t) is sufficient. On a device, therefore, autograd does not
compute gradients of weights: as soon as the gradient of a layer's output is available, that of its weight is computed
for a few output channels at a time, and only the a_t largest values so far are stored. A simulation has the memory for
whole gradients, and finds the same with one backward pass.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight
from torch.utils.hooks import RemovableHandle

from fedsim.methods.sparse.masks import Masks, entry
from fedsim.norms.scaled_ws import ScaledWSConv2d
from fedsim.norms.weight_standardization import WSConv2d
from fedsim.reparam import Companded

SLICED = (nn.Conv2d, nn.Linear, WSConv2d, ScaledWSConv2d)
"""Layer types that compute each output channel from that channel's weights alone. Subclasses are not included, except
the companded ones, whose weights are computed elementwise."""
BatchLoss = Callable[[], torch.Tensor]
Found = dict[str, tuple[torch.Tensor, torch.Tensor]]


def largest_gradients(
    model: nn.Module, batch_loss: BatchLoss, masks: Masks, counts: Mapping[str, int], *, dense: bool = True
) -> Found:
    """Return the inactive weights (mask false) with the largest absolute gradients, of each layer in ``counts``.

    The caller sets the mode of the model, and is responsible for what the forward pass changes, such as running
    statistics. Parameters, their ``.grad`` and ``requires_grad`` are as before afterwards, also after an error. Layers
    are included whether their weight requires a gradient or not.

    Args:
        model: The network.
        batch_loss: Runs the model and returns the loss, a scalar. Called once, or not at all if all counts are zero.
        masks: Masks by layer.
        counts: Number of gradients by layer.
        dense: Whether the gradients of whole weights are computed, which is several times as fast, or those of a few
            output channels at a time (``sliced_largest_gradients``), for the memory of a real device. The results are
            the same up to rounding, since kernels add up in another order.

    Returns:
        By layer, the indices in the flattened weight, (n,) of int32 and ascending, and the gradients there with their
        signs, (n,) of float32, on the weight's device; n is the layer's count, or the number of its inactive weights if
        that is less. Of equal gradients the smaller index comes first; a NaN counts as largest. The weight is the
        trained parameter, which in a standardized or companded layer is the one before standardization or companding.

    Raises:
        RuntimeError: If no gradient reaches one of the layers.
    """
    find = dense_largest_gradients if dense else sliced_largest_gradients
    return find(model, batch_loss, masks, counts)


def dense_largest_gradients(model: nn.Module, batch_loss: BatchLoss, masks: Masks, counts: Mapping[str, int]) -> Found:
    """Return the result of ``largest_gradients`` from one backward pass to all weights of these layers.

    Each gradient is released as soon as its largest values are taken.

    Raises:
        RuntimeError: If no gradient reaches one of the layers.
    """
    return _find(model, batch_loss, masks, counts, slices=False)


def sliced_largest_gradients(model: nn.Module, batch_loss: BatchLoss, masks: Masks, counts: Mapping[str, int]) -> Found:
    """Return the result of ``largest_gradients`` without computing the gradient of a whole weight.

    Beside the weights, activations and gradients of activations of an ordinary pass, this needs memory, for one layer
    at a time, for about a dozen numbers per requested gradient, or per weight of an output channel if that is more.
    Kernels may need a copy of the layer's input or of the slice's output gradient, as does padding other than with
    zeros. For a layer that is used several times in one pass, all inputs and output gradients are stored until the last
    one is available. It takes several times as long as a dense gradient, since one large product becomes many small
    ones.

    The dense gradient is computed, one layer at a time, for layers whose slices are not known to be correct: those of
    another type than ``SLICED``, with a ``forward`` set on the instance, or with a weight shared with another layer.

    In a sliced layer the gradient only includes paths through the layer's own forward, not a penalty in the loss on the
    weight itself (the usual penalties have no gradient at a weight of zero).

    Raises:
        RuntimeError: If no gradient reaches one of the layers, or if a layer's input was changed in place.
    """
    return _find(model, batch_loss, masks, counts, slices=True)


def _find(model: nn.Module, batch_loss: BatchLoss, masks: Masks, counts: Mapping[str, int], *, slices: bool) -> Found:
    weights = dict(model.named_parameters(remove_duplicate=False))
    owners = Counter(id(weight) for module in model.modules() for weight in module.parameters(recurse=False))
    found: dict[str, _Largest] = {}
    sliced: list[_SlicedSearch] = []
    hooks: list[RemovableHandle] = []
    sources: list[torch.Tensor] = []
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    try:
        for parameter, _, _ in before:
            parameter.requires_grad_(False)
        for name, count in counts.items():
            layer, weight = model.get_submodule(name), weights[entry(name)]
            found[name] = largest = _Largest(masks[name], count, weight)
            if largest.count == 0:
                continue
            if slices and _is_sliced(layer) and owners[id(weight)] == 1:
                search = _SlicedSearch(layer, weight, largest, sources)
                # The first of all hooks, so that it receives the output of the layer itself.
                hooks.append(layer.register_forward_hook(search.observe, prepend=True, with_kwargs=True))
                sliced.append(search)
            else:
                weight.requires_grad_(True).grad = None
                offer = largest.offer_in_slices if slices else largest.offer_whole
                hooks.append(weight.register_post_accumulate_grad_hook(offer))
                sources.append(weight)
        if hooks:
            with torch.enable_grad():
                loss = batch_loss()
            if loss.requires_grad:
                # Only to the sources, so that no other tensor gets a gradient.
                loss.backward(inputs=sources)
            for search in sliced:
                search.finish()
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, required, gradient in before:
            parameter.requires_grad_(required).grad = gradient
    silent = [name for name, largest in found.items() if len(largest.places) < largest.count]
    if silent:
        raise RuntimeError(f"no gradient of the loss reaches the weights of {', '.join(silent)}")
    return {name: (largest.places, largest.values.float()) for name, largest in found.items()}


class _Largest:
    """The inactive weights of one layer with the largest gradients so far, in ascending order of their indices."""

    def __init__(self, mask: torch.Tensor, count: int, weight: torch.Tensor) -> None:
        self.mask = mask
        self.count = min(count, mask.numel() - int(mask.sum()))
        self.channel = weight[0].numel()
        self.channels = max(1, self.count // self.channel)
        """Number of output channels in a slice, which makes it about as large as the collected gradients."""
        self.places = torch.empty(0, dtype=torch.int32, device=weight.device)
        self.values = weight.new_empty(0)

    def offer(self, first: int, gradient: torch.Tensor) -> None:
        """Process the gradient of the output channels from ``first`` on, (channels, ...); slices must come in order."""
        places, values = self._inactive(first, gradient)
        places, values = torch.cat([self.places, places]), torch.cat([self.values, values])
        if len(places) > self.count:
            chosen = _largest_of(values.abs(), self.count)
            places, values = places[chosen], values[chosen]
        self.places, self.values = places, values

    def offer_whole(self, weight: torch.Tensor) -> None:
        """Process and release the gradient that was just accumulated in a weight."""
        gradient, weight.grad = weight.grad, None
        assert gradient is not None
        self.offer(0, gradient)

    def offer_in_slices(self, weight: torch.Tensor) -> None:
        """Process and release the gradient that was just accumulated in a weight, with memory for slices only."""
        gradient, weight.grad = weight.grad, None
        assert gradient is not None
        for first in range(0, len(gradient), self.channels):
            self.offer(first, gradient[first : first + self.channels])

    def _inactive(self, first: int, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        active = self.mask[first : first + len(gradient)].to(gradient.device)
        places = active.logical_not().flatten().nonzero()[:, 0]
        values = gradient.flatten()[places]
        return (places + first * self.channel).to(torch.int32), values


def _largest_of(sizes: torch.Tensor, count: int) -> torch.Tensor:
    """Return the indices of the ``count`` largest, ascending: of equal ones the first; NaN is larger than all numbers.

    Faster than a stable sort.
    """
    least = sizes.topk(count).values[-1]  # topk treats NaN as largest, but does not prefer the first of equal values
    if least.isnan():
        return sizes.isnan().nonzero()[:count, 0]
    above = ~(sizes <= least)
    border = (sizes == least).nonzero()[: count - int(above.sum()), 0]
    return above.index_fill(0, border, True).nonzero()[:, 0]


class _SlicedSearch:
    """Finds the largest gradients of one layer from its inputs and the gradients of its outputs."""

    def __init__(self, layer: nn.Module, weight: torch.Tensor, largest: _Largest, sources: list[torch.Tensor]) -> None:
        self.layer, self.weight, self.largest, self.sources = layer, weight, largest, sources
        self.uses = 0
        self.arrived: list[tuple[torch.Tensor, torch.Tensor]] = []

    def observe(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor
    ) -> torch.Tensor | None:
        """Store the input until the gradient of the output is available; a forward hook."""
        if not torch.is_grad_enabled():
            return None
        given: torch.Tensor = (args[0] if args else kwargs["input"]).detach()
        version, kept = given._version, [given]
        del given  # else `arrive` would reference it for the lifetime of the graph

        def arrive(gradient: torch.Tensor) -> None:
            given = kept.pop()
            if given._version != version:
                raise RuntimeError("the input of a layer was changed in place before its gradient could be computed")
            self.arrived.append((given, gradient.detach()))
            if len(self.arrived) == self.uses:
                self.finish()

        # No weight requires a gradient; to get one for the output, a zero that requires a gradient is added.
        source = torch.zeros((), device=output.device, requires_grad=True)
        self.sources.append(source)
        output = output + source
        output.register_hook(arrive)
        self.uses += 1
        return output

    @torch.no_grad()
    def finish(self) -> None:
        """Process the stored inputs and output gradients, if any: of all uses, or those that the loss depends on."""
        dtype = self.weight.dtype  # under autocast inputs and gradients may have others
        uses = [_as_batches(self.layer, given.to(dtype), gradient.to(dtype)) for given, gradient in self.arrived]
        self.arrived.clear()
        if uses:
            for rows, groups in _slices(len(self.weight), getattr(self.layer, "groups", 1), self.largest.channels):
                self.largest.offer(rows.start, self._raw_gradient(rows, self._used_gradient(uses, rows, groups)))

    def _used_gradient(self, uses: list[tuple[torch.Tensor, torch.Tensor]], rows: slice, groups: slice) -> torch.Tensor:
        """Return the gradient of some rows of the weight in the layer's operation, summed over its uses."""
        first, *others = uses
        gradient = self._gradient_of_use(*first, rows, groups)
        for use in others:
            gradient += self._gradient_of_use(*use, rows, groups)
        return gradient

    def _gradient_of_use(self, given: torch.Tensor, gradient: torch.Tensor, rows: slice, groups: slice) -> torch.Tensor:
        gradient = gradient[:, rows]
        if not isinstance(self.layer, nn.Conv2d):
            return gradient.T @ given
        layer = self.layer
        inputs = layer.in_channels // layer.groups
        padding = 0 if _is_padded_before(layer) else layer.padding
        weight: torch.Tensor = conv2d_weight(
            given[:, groups.start * inputs : groups.stop * inputs],
            (gradient.shape[1], *self.weight.shape[1:]),
            gradient,
            layer.stride,
            padding,
            layer.dilation,
            groups.stop - groups.start,
        )
        return weight

    def _raw_gradient(self, rows: slice, gradient: torch.Tensor) -> torch.Tensor:
        """Return the gradient of the same rows of the trained parameter."""
        if type(self.layer) in (nn.Conv2d, nn.Linear):
            return gradient
        # The layer's own computation of the used weight, on a copy with these output channels only.
        part, raw = copy.copy(self.layer), self.weight[rows].detach().requires_grad_()
        own = {
            name: value[rows] if value is not None and value.dim() else value
            for name, value in self.layer._parameters.items()
        }
        vars(part)["_parameters"] = {**own, "weight": raw}
        with torch.enable_grad():
            used = part.standardized_weight() if isinstance(part, WSConv2d | ScaledWSConv2d) else part.weight
        assert isinstance(used, torch.Tensor)
        (gradient,) = torch.autograd.grad(used, raw, gradient)
        return gradient


def _is_sliced(layer: nn.Module) -> bool:
    kind = type(layer)
    if issubclass(kind, Companded):
        kind = kind.__mro__[2]
    return kind in SLICED and "forward" not in vars(layer)


def _is_padded_before(layer: nn.Conv2d) -> bool:
    """Return whether the padding is one that ``conv2d_weight`` does not support."""
    return layer.padding_mode != "zeros" or isinstance(layer.padding, str)


def _as_batches(layer: nn.Module, given: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return input and output gradient as (N, features) or (N, channels, height, width), the input padded if needed."""
    if not isinstance(layer, nn.Conv2d):
        return given.reshape(-1, given.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    if given.dim() == 3:
        given, gradient = given[None], gradient[None]
    if _is_padded_before(layer):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        given = F.pad(given, layer._reversed_padding_repeated_twice, mode)
    return given, gradient


def _slices(channels: int, groups: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Yield slices of at most ``size`` output channels, each with its groups: a part of one group, or whole groups."""
    in_group = channels // groups
    whole = max(1, size // in_group)
    for group in range(0, groups, whole):
        after = min(group + whole, groups)
        for first in range(group * in_group, after * in_group, size):
            yield slice(first, min(first + size, after * in_group)), slice(group, after)
