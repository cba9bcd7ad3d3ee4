"""What a batch, (N, C, ...), lets the running statistics of a layer move towards, by the name of the buffer."""

from collections.abc import Callable

import torch

from fedsim.norms.shapes import all_but_channels

Statistics = dict[str, torch.Tensor]
"""Of a layer, by the name of the buffer"""
OfABatch = Callable[[torch.Tensor], Statistics]


def moments(input: torch.Tensor) -> Statistics:
    """Return mean and biased variance over the batch and its pixels."""
    over = all_but_channels(input)
    return {"running_mean": input.mean(over), "running_var": input.var(over, correction=0)}


def instance_moments(input: torch.Tensor) -> Statistics:
    """Return the averages over the images of their means and unbiased variances, as InstanceNorm tracks them."""
    pixels = tuple(range(2, input.dim()))
    return {"running_mean": input.mean(pixels).mean(0), "running_var": input.var(pixels).mean(0)}


def variance(input: torch.Tensor) -> Statistics:
    """Return the unbiased variance alone."""
    return {"running_var": input.var(all_but_channels(input))}


def mean_square(name: str) -> OfABatch:
    """Return the function that gives the mean square, for the buffer of that name."""
    return lambda input: {name: input.square().mean(all_but_channels(input))}
