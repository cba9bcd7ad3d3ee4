"""Normalization as an axis: the layer that stands where the model's author put BatchNorm.

Models are written with BatchNorm; ``norm=`` names a function ``(model) -> model`` of this package that replaces those
layers by type, so every layer can stand in every model.
"""

from fedsim.norms.batch import keep_batch_norm
from fedsim.norms.group import use_group_norm
from fedsim.norms.none import remove_norm
from fedsim.norms.replace import NORM_LAYERS
from fedsim.norms.scaled_ws import ScaledWSConv2d, use_scaled_ws

__all__ = ["NORM_LAYERS", "ScaledWSConv2d", "keep_batch_norm", "remove_norm", "use_group_norm", "use_scaled_ws"]
