"""Norms by their name: ``use_norm(model, "gn", groups=8)`` is the same as ``norm=gn norm.groups=8``."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from fedsim.config.binding import check_types, refuse_unused_options
from fedsim.core.errors import UserError
from fedsim.norms.groups import CHANNELS_PER_GROUP, GROUP_OPTIONS
from fedsim.norms.registry import TABLE

NORMS = {norm.name: norm.use for norm in TABLE}
"""The names and functions of ``configs/norm``."""
GROUPED = tuple(norm.name for norm in TABLE if norm.grouped)
"""The norms whose groups have a default."""


def norm_names(filter: str = "*") -> list[str]:
    """Return the names in alphabetical order, of all norms or of those that match a pattern like ``"*gn"``."""
    return sorted(name for name in NORMS if fnmatchcase(name, filter))


def use_norm(model: nn.Module, name: str, **options: Any) -> nn.Module:
    """Replace the BatchNorm layers of the model, in place, and return it; options left out have their defaults.

    Raises:
        UserError: If the name is unknown, the norm does not have an option, an option is out of its range, or the norm
            cannot be used in this model.
    """
    if name not in NORMS:
        raise UserError(f"norm={name} is not known: choose {', '.join(norm_names())}.")
    refuse_unused_options("norm", {"name": name, **options}, [NORMS[name]], ["name"])
    check_types("norm", options, NORMS[name])
    return NORMS[name](model, **options)


def grouping(norm: Mapping[str, Any]) -> str | None:
    """Return the option on groups in the ``norm`` group, as ``groups=32`` or ``channels_per_group=16``.

    It is the default if neither option is set, and ``None`` for a norm without groups.
    """
    for option in GROUP_OPTIONS:
        if norm.get(option) is not None:
            return f"{option}={norm[option]}"
    return f"channels_per_group={CHANNELS_PER_GROUP}" if norm.get("name") in GROUPED else None
