"""Norms by their name: ``use_norm(model, "gn", groups=8)`` is what ``norm=gn norm.groups=8`` does."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from fedsim.config.binding import check_types, refuse_unused_options
from fedsim.core.errors import UserError
from fedsim.norms.batch import keep_batch_norm
from fedsim.norms.batch_channel import use_batch_channel_norm
from fedsim.norms.crms import use_crms_norm
from fedsim.norms.evonorm import use_evonorm_b0, use_evonorm_s0
from fedsim.norms.frn import use_frn
from fedsim.norms.group import use_group_norm
from fedsim.norms.ibn import use_ibn_a, use_ibn_b
from fedsim.norms.instance import use_instance_norm
from fedsim.norms.layer import use_layer_norm
from fedsim.norms.none import remove_norm
from fedsim.norms.power import use_power_norm
from fedsim.norms.rms import use_rms_norm
from fedsim.norms.scaled_ws import use_scaled_ws
from fedsim.norms.unified import use_unified_norm
from fedsim.norms.weight_standardization import use_ws, use_ws_group_norm

NORMS: dict[str, Callable[..., nn.Module]] = {
    "bcn": use_batch_channel_norm,
    "bn": keep_batch_norm,
    "crms": use_crms_norm,
    "evonorm_b0": use_evonorm_b0,
    "evonorm_s0": use_evonorm_s0,
    "frn": use_frn,
    "gn": use_group_norm,
    "ibn_a": use_ibn_a,
    "ibn_b": use_ibn_b,
    "in": use_instance_norm,
    "ln": use_layer_norm,
    "none": remove_norm,
    "powernorm": use_power_norm,
    "rms": use_rms_norm,
    "sws": use_scaled_ws,
    "unified": use_unified_norm,
    "ws": use_ws,
    "ws_gn": use_ws_group_norm,
}
"""The names and functions of ``configs/norm``."""


def norm_names(filter: str = "*") -> list[str]:
    """The names in order, or those that a pattern like ``"*gn"`` matches."""
    return sorted(name for name in NORMS if fnmatchcase(name, filter))


def use_norm(model: nn.Module, name: str, **options: Any) -> nn.Module:
    """Replaces the BatchNorm layers of the model, in place, and returns it; options left out have their defaults.

    Errors: ``UserError`` for a name that is not known, an option that this norm does not have or that is out of its
    range, and a model in which it cannot stand.
    """
    if name not in NORMS:
        raise UserError(f"norm={name} is not known: choose {', '.join(norm_names())}.")
    refuse_unused_options("norm", {"name": name, **options}, [NORMS[name]], ["name"])
    check_types("norm", options, NORMS[name])
    return NORMS[name](model, **options)
