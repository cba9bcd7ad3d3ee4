"""Normalization as an axis: the layer that stands where the model's author put BatchNorm.

Models are written with BatchNorm; ``norm=`` names a function ``(model) -> model`` of this package that replaces those
layers by type, so every layer can stand in every model.
"""

from fedsim.norms.batch import keep_batch_norm
from fedsim.norms.batch_channel import ChannelNorm, use_batch_channel_norm
from fedsim.norms.evonorm import EVONORMS, use_evonorm_b0, use_evonorm_s0
from fedsim.norms.group import use_group_norm
from fedsim.norms.ibn import InstanceBatchNorm2d, use_ibn_a, use_ibn_b
from fedsim.norms.instance import use_instance_norm
from fedsim.norms.layer import use_layer_norm
from fedsim.norms.none import remove_norm
from fedsim.norms.policy import NormPolicy
from fedsim.norms.replace import TORCH_NORM_LAYERS
from fedsim.norms.residual import ScaledResidual
from fedsim.norms.rms import ChannelRMSNorm, use_rms_norm
from fedsim.norms.scaled_ws import ScaledWSConv2d, use_scaled_ws
from fedsim.norms.weight_standardization import WSConv2d, use_ws, use_ws_group_norm

NORM_LAYERS = (*TORCH_NORM_LAYERS, ChannelNorm, ChannelRMSNorm, *EVONORMS)
"""Every layer that normalizes activations; FedWon's models hold none of them."""

__all__ = [
    "NORM_LAYERS",
    "ChannelNorm",
    "ChannelRMSNorm",
    "InstanceBatchNorm2d",
    "NormPolicy",
    "ScaledResidual",
    "ScaledWSConv2d",
    "WSConv2d",
    "keep_batch_norm",
    "remove_norm",
    "use_batch_channel_norm",
    "use_evonorm_b0",
    "use_evonorm_s0",
    "use_group_norm",
    "use_ibn_a",
    "use_ibn_b",
    "use_instance_norm",
    "use_layer_norm",
    "use_rms_norm",
    "use_scaled_ws",
    "use_ws",
    "use_ws_group_norm",
]
