"""Vectors of one value for each channel, and the (N, C, ...) that they belong to."""

import torch


def per_channel(values: torch.Tensor, input: torch.Tensor) -> torch.Tensor:
    """``values`` (C,) in the shape in which they multiply ``input`` (N, C, ...)."""
    return values.view(1, -1, *(1,) * (input.dim() - 2))


def all_but_channels(input: torch.Tensor) -> tuple[int, ...]:
    """The dimensions of (N, C, ...) that a statistic of each channel is taken over."""
    return (0, *range(2, input.dim()))
