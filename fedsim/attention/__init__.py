"""Attention as an axis: layers that weigh the channels or the places of feature maps, put into any model.

``attention=`` names a function ``(model) -> model`` of this package. It is applied behind ``norm=``, so that neither
replaces the other's layers: no norm standardizes the convolutions inside an attention.
"""

from fedsim.attention.ela import EfficientLocalAttention, use_ela
from fedsim.attention.place import no_attention, place_attention
from fedsim.attention.scse import SpatialChannelSE, use_scse
from fedsim.attention.se import SqueezeExcitation, use_se

ATTENTION_LAYERS = (EfficientLocalAttention, SpatialChannelSE, SqueezeExcitation)
"""Every layer that ``attention=`` puts into a network."""

__all__ = [
    "ATTENTION_LAYERS",
    "EfficientLocalAttention",
    "SpatialChannelSE",
    "SqueezeExcitation",
    "no_attention",
    "place_attention",
    "use_ela",
    "use_scse",
    "use_se",
]
