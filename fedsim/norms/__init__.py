"""Normalization layers that replace the BatchNorm layers of a model.

Models are written with BatchNorm; ``norm=`` names a function ``(model) -> model`` of this package that replaces those
layers by type, so that every norm can be used with every model.
"""

from fedsim.norms.batch import keep_batch_norm
from fedsim.norms.batch_channel import ChannelNorm, EstimatedBatchNorm, use_batch_channel_norm
from fedsim.norms.crms import CRMSNorm, use_crms_norm
from fedsim.norms.evonorm import use_evonorm_b0, use_evonorm_s0
from fedsim.norms.factory import norm_names, use_norm
from fedsim.norms.frn import use_frn
from fedsim.norms.group import use_group_norm
from fedsim.norms.hybrid import HybridBatchNorm, hybrid_layers, mixtures_seen, use_hybrid_batch_norm
from fedsim.norms.ibn import InstanceBatchNorm2d, use_ibn_a, use_ibn_b
from fedsim.norms.instance import use_instance_norm
from fedsim.norms.layer import use_layer_norm
from fedsim.norms.none import remove_norm
from fedsim.norms.pixels import check_pixels, single_values_refused
from fedsim.norms.policy import NormPolicy
from fedsim.norms.power import GroupScaling, PowerNorm, use_power_norm
from fedsim.norms.registry import norm_layers
from fedsim.norms.residual import ScaledResidual
from fedsim.norms.rms import ChannelRMSNorm, use_rms_norm
from fedsim.norms.scaled_ws import ScaledWSConv2d, ScaledWSConvolution, use_scaled_ws
from fedsim.norms.skew_eraser import ErasingLayer, SkewEraser, deskewed_norms, skew_erasers, use_skew_erasers
from fedsim.norms.unified import UnifiedNorm, use_unified_norm
from fedsim.norms.weight_standardization import WSConv2d, WSConvolution, use_ws, use_ws_group_norm

__all__ = [
    "CRMSNorm",
    "ChannelNorm",
    "ChannelRMSNorm",
    "ErasingLayer",
    "EstimatedBatchNorm",
    "GroupScaling",
    "HybridBatchNorm",
    "InstanceBatchNorm2d",
    "NormPolicy",
    "PowerNorm",
    "ScaledResidual",
    "ScaledWSConv2d",
    "ScaledWSConvolution",
    "SkewEraser",
    "UnifiedNorm",
    "WSConv2d",
    "WSConvolution",
    "check_pixels",
    "deskewed_norms",
    "hybrid_layers",
    "keep_batch_norm",
    "mixtures_seen",
    "norm_layers",
    "norm_names",
    "remove_norm",
    "single_values_refused",
    "skew_erasers",
    "use_batch_channel_norm",
    "use_crms_norm",
    "use_evonorm_b0",
    "use_evonorm_s0",
    "use_frn",
    "use_group_norm",
    "use_hybrid_batch_norm",
    "use_ibn_a",
    "use_ibn_b",
    "use_instance_norm",
    "use_layer_norm",
    "use_norm",
    "use_power_norm",
    "use_rms_norm",
    "use_scaled_ws",
    "use_skew_erasers",
    "use_unified_norm",
    "use_ws",
    "use_ws_group_norm",
]
