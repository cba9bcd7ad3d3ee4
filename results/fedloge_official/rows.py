"""What is printed: rows, and the largest difference of two tensors."""

import torch


def row(what: str, *values: object) -> None:
    print(f"{what}:", *(f"{value:.1e}" if isinstance(value, float) else value for value in values), flush=True)


def largest(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()
