"""Shapes of vectors with one value for each channel, for tensors (N, C, ...)."""

import torch


def per_channel(values: torch.Tensor, input: torch.Tensor) -> torch.Tensor:
    """Return ``values`` (C,) in the shape in which they broadcast against ``input`` (N, C, ...)."""
    return values.view(1, -1, *(1,) * (input.dim() - 2))


def all_but_channels(input: torch.Tensor) -> tuple[int, ...]:
    """Return the dimensions of (N, C, ...) over which statistics of each channel are computed."""
    return (0, *range(2, input.dim()))
