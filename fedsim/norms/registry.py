"""The registry of norms: all properties of a norm that the rest of the simulator uses are in its line of ``TABLE``.

A new norm is a file of this package with its layer and a function ``(model) -> model``, a line here, and a YAML in
``configs/norm``. Code that finds norm layers by type, such as ``train_only=norm``, ``norm.policy``, ``tta=`` and
FedWon's check that there are none, asks the functions that derive the types from the table.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from fedsim.core.loaded import loaded
from fedsim.norms.batch import keep_batch_norm
from fedsim.norms.batch_channel import ChannelNorm, EstimatedBatchNorm, use_batch_channel_norm
from fedsim.norms.crms import CRMSNorm, use_crms_norm
from fedsim.norms.evonorm import use_evonorm_b0, use_evonorm_s0
from fedsim.norms.frn import use_frn
from fedsim.norms.group import use_group_norm
from fedsim.norms.hybrid import HybridBatchNorm, use_hybrid_batch_norm
from fedsim.norms.ibn import use_ibn_a, use_ibn_b
from fedsim.norms.instance import use_instance_norm
from fedsim.norms.layer import use_layer_norm
from fedsim.norms.moments import OfABatch, instance_moments, mean_square, moments, variance
from fedsim.norms.none import remove_norm
from fedsim.norms.power import GroupScaling, PowerNorm, use_power_norm
from fedsim.norms.replace import TORCH_NORM_LAYERS, timm_norm_layers
from fedsim.norms.rms import ChannelRMSNorm, use_rms_norm
from fedsim.norms.scaled_ws import use_scaled_ws
from fedsim.norms.skew_eraser import use_skew_erasers
from fedsim.norms.unified import UnifiedNorm, use_unified_norm
from fedsim.norms.weight_standardization import use_ws, use_ws_group_norm


class Over(Enum):
    """The part of an image that a layer normalizes by itself, which may be a single value if there is one pixel."""

    CHANNEL = "channel"
    """Each channel of an image."""
    GROUP = "group"
    """Each group of channels of an image, which may be one channel."""


@dataclass(frozen=True)
class NormLayer:
    """A type of layers that normalize activations, and its properties."""

    layer: type[nn.Module] | str
    """A class, or the name of one of timm, which is imported only where it is used"""
    has_statistics: bool = False
    """Whether it always has running statistics, to which ``norm.policy`` applies."""
    of_a_batch: OfABatch | None = None
    """Computes the statistics of a batch for the running statistics used at evaluation; BatchNorm needs none."""
    gathered: bool = False
    """Whether its running statistics are gathered by the strategy, and not by the layer in training."""
    needs_batch: bool = False
    """Whether it cannot train on one value of each channel, as of one image behind a linear layer: no deviation."""
    over: Over | None = None

    @property
    def types(self) -> tuple[type[nn.Module], ...]:
        """The class; none if it is timm's and nothing has imported it."""
        return loaded(*self.layer.rsplit(".", 1)) if isinstance(self.layer, str) else (self.layer,)


@dataclass(frozen=True)
class Norm:
    """A choice of ``norm=``."""

    name: str
    use: Callable[..., nn.Module]
    """``(model, **options) -> model``, the ``_target_`` of its YAML."""
    layers: tuple[NormLayer, ...] = ()
    """The layers that normalize activations in models with this norm."""
    grouped: bool = False
    """Whether it has groups of channels by default."""


BATCH_NORM = NormLayer(_BatchNorm, has_statistics=True, needs_batch=True)
ESTIMATED = NormLayer(EstimatedBatchNorm, has_statistics=True, of_a_batch=moments)
EVONORM_B0 = NormLayer("timm.layers.evo_norm.EvoNorm2dB0", has_statistics=True, of_a_batch=variance, needs_batch=True)
HYBRID = NormLayer(HybridBatchNorm, has_statistics=True, of_a_batch=moments, gathered=True)
INSTANCE_NORM = NormLayer(_InstanceNorm, of_a_batch=instance_moments, over=Over.CHANNEL)
"""It has running statistics only with ``track_running_stats``, which no norm of the table sets."""
GROUP_NORM = NormLayer(nn.GroupNorm, over=Over.GROUP)
POWER_NORM = NormLayer(PowerNorm, has_statistics=True, of_a_batch=mean_square("phi"))
UNIFIED_NORM = NormLayer(UnifiedNorm, has_statistics=True, of_a_batch=mean_square("running_var"))

TABLE = (
    Norm("bcn", use_batch_channel_norm, (BATCH_NORM, ESTIMATED, NormLayer(ChannelNorm, over=Over.GROUP)), grouped=True),
    Norm("bn", keep_batch_norm, (BATCH_NORM,)),
    Norm("crms", use_crms_norm, (NormLayer(CRMSNorm),)),
    Norm("dse", use_skew_erasers, (BATCH_NORM,)),
    Norm("evonorm_b0", use_evonorm_b0, (EVONORM_B0,)),
    Norm("evonorm_s0", use_evonorm_s0, (NormLayer("timm.layers.evo_norm.EvoNorm2dS0", over=Over.GROUP),), grouped=True),
    Norm("frn", use_frn, (NormLayer("timm.layers.filter_response_norm.FilterResponseNormTlu2d", over=Over.CHANNEL),)),
    Norm("gn", use_group_norm, (GROUP_NORM,), grouped=True),
    Norm("hbn", use_hybrid_batch_norm, (HYBRID,)),
    Norm("ibn_a", use_ibn_a, (BATCH_NORM, INSTANCE_NORM)),
    Norm("ibn_b", use_ibn_b, (BATCH_NORM, INSTANCE_NORM)),
    Norm("in", use_instance_norm, (INSTANCE_NORM,)),
    Norm("ln", use_layer_norm, (GROUP_NORM,)),
    Norm("none", remove_norm),
    Norm("powernorm", use_power_norm, (POWER_NORM, NormLayer(GroupScaling, over=Over.GROUP))),
    Norm("rms", use_rms_norm, (NormLayer(ChannelRMSNorm),)),
    Norm("sws", use_scaled_ws),
    Norm("unified", use_unified_norm, (UNIFIED_NORM,)),
    Norm("ws", use_ws),
    Norm("ws_gn", use_ws_group_norm, (GROUP_NORM,), grouped=True),
)
"""Every norm of ``configs/norm``, in the order of their names."""


LAYERS = tuple(dict.fromkeys(layer for norm in TABLE for layer in norm.layers))
"""The layers of all norms."""

Types = tuple[type[nn.Module], ...]


def norm_layers() -> Types:
    """Return the types of all layers that normalize activations; FedWon's models have none of them."""
    return tuple(dict.fromkeys((*TORCH_NORM_LAYERS, *timm_norm_layers(), *_types(LAYERS))))


def statistics_layers() -> Types:
    """Return the types of all layers that always have running statistics."""
    return _types(layer for layer in LAYERS if layer.has_statistics)


def batch_layers() -> Types:
    """Return the types of all layers that cannot train on one value of each channel."""
    return _types(layer for layer in LAYERS if layer.needs_batch)


def gathered_layers() -> Types:
    """Return the types of all layers whose running statistics the strategy gathers."""
    return _types(layer for layer in LAYERS if layer.gathered)


def layers_over(over: Over) -> Types:
    """Return the types of all layers that normalize this part of an image by itself."""
    return _types(layer for layer in LAYERS if layer.over is over)


def _types(layers: Iterable[NormLayer]) -> Types:
    return tuple(dict.fromkeys(kind for layer in layers for kind in layer.types))
