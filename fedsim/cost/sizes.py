"""Bytes of tensors most of whose numbers are zero, in memory and in messages."""

from fedsim.core.errors import UserError

VALUE_BYTES = 4
"""Bytes of a float32."""
INDEX_BYTES = 4
"""Bytes of an int32, an index of the flattened weight of one layer."""


def partial_bytes(numel: int, nonzero: int, value_bytes: int = VALUE_BYTES, index_bytes: int = INDEX_BYTES) -> int:
    """Return the bytes of ``nonzero`` numbers of ``numel`` and of their indices.

    The indices take one bit for each of the ``numel`` numbers, or ``index_bytes`` for each nonzero one, whichever is
    less.

    Raises:
        UserError: If ``nonzero`` is not from 0 to ``numel``.
    """
    if not 0 <= nonzero <= numel:
        raise UserError(f"{nonzero} of {numel} numbers cannot be kept: choose a whole number from 0 to {numel}.")
    return nonzero * value_bytes + min((numel + 7) // 8, nonzero * index_bytes)


def pair_bytes(count: int) -> int:
    """Return the bytes of ``count`` (index, value) pairs: the buffer of the largest gradients, and its message."""
    return count * (INDEX_BYTES + VALUE_BYTES)
