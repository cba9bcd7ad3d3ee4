"""Mappings in mappings."""

from collections.abc import Mapping
from typing import Any


def flattened(nested: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return the values of nested mappings by their names joined with dots."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        name = f"{above}{key}"
        flat |= flattened(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat
