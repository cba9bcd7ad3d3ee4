"""Bytes of numbers most of which are zero, in memory and in messages."""

from fedsim.core.errors import UserError

VALUE_BYTES = 4
"""A float32."""
INDEX_BYTES = 4
"""An int32: a place in the flattened weights of one layer."""


def partial_bytes(numel: int, nonzero: int, value_bytes: int = VALUE_BYTES, index_bytes: int = INDEX_BYTES) -> int:
    """Bytes of so many kept numbers and of where they are: one bit for each number or one index for each kept one,
    whichever is less."""
    if not 0 <= nonzero <= numel:
        raise UserError(f"{nonzero} of {numel} numbers cannot be kept: choose a whole number from 0 to {numel}.")
    return nonzero * value_bytes + min((numel + 7) // 8, nonzero * index_bytes)


def pair_bytes(count: int) -> int:
    """Bytes of so many (index, value) pairs: the buffer of the largest gradients, and its message."""
    return count * (INDEX_BYTES + VALUE_BYTES)
