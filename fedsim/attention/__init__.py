"""Attention layers, which weight the channels or positions of feature maps, for any model.

``attention=`` names a function ``(model) -> model`` of this package. It is applied after ``norm=``, so that neither
replaces the other's layers: no norm standardizes the convolutions inside an attention layer. A new layer's type goes
into ``ATTENTION_LAYERS``, by which strategies know it.
"""

from fedsim.attention.ela import EfficientLocalAttention, use_ela
from fedsim.attention.place import no_attention, place_attention
from fedsim.attention.scse import SpatialChannelSE, use_scse
from fedsim.attention.se import SqueezeExcitation, use_se

ATTENTION_LAYERS = (EfficientLocalAttention, SpatialChannelSE, SqueezeExcitation)
"""The types of layers that ``attention=`` inserts into a network."""

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
