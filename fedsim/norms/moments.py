"""Statistics of a batch (N, C, ...) towards which a layer updates its running statistics, by name of the buffer."""

from collections.abc import Callable

import torch

from fedsim.norms.shapes import all_but_channels

Statistics = dict[str, torch.Tensor]
"""Statistics of a layer, by name of the buffer."""
OfABatch = Callable[[torch.Tensor], Statistics]


def precise(input: torch.Tensor) -> torch.Tensor:
    """Return a tensor of half precision as float32, in which torch's BatchNorm computes its statistics, else itself."""
    return input.to(torch.promote_types(input.dtype, torch.float32))


def moments(input: torch.Tensor) -> Statistics:
    """Return mean and biased variance over the batch and its pixels."""
    over = all_but_channels(input)
    return {"running_mean": input.mean(over), "running_var": input.var(over, correction=0)}


def instance_moments(input: torch.Tensor) -> Statistics:
    """Return the images' means and unbiased variances, averaged over images, which InstanceNorm tracks."""
    pixels = tuple(range(2, input.dim()))
    return {"running_mean": input.mean(pixels).mean(0), "running_var": input.var(pixels).mean(0)}


def variance(input: torch.Tensor) -> Statistics:
    """Return the unbiased variance only."""
    return {"running_var": input.var(all_but_channels(input))}


def mean_square(name: str) -> OfABatch:
    """Return a function that computes the mean square, for the buffer ``name``."""
    return lambda input: {name: input.square().mean(all_but_channels(input))}
