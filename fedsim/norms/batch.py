"""``norm=bn``: Batch Normalization (Ioffe & Szegedy 2015, arXiv 1502.03167), as the model's author placed it."""

from torch import nn
from torch.nn.modules.batchnorm import BatchNorm1d, _BatchNorm

from fedsim.norms.replace import channels_of, eps_of, has_layers, keep_affine
from fedsim.norms.tokens import Tokens, replace_norms


def keep_batch_norm(model: nn.Module) -> nn.Module:
    """Leave a network with BatchNorm as it is; in one that is written with LayerNorm, replace each by BatchNorm.

    There each channel is normalized over the batch and its tokens, as the baselines of PowerNorm (arXiv 2003.07845)
    and Unified Normalization (arXiv 2208.01313) do. A network with neither is left as it is, too.

    Raises:
        UserError: If a LayerNorm is not over channels.
    """
    if has_layers(model, _BatchNorm) or not has_layers(model, nn.LayerNorm):
        return model
    return replace_norms(model, "bn", lambda layer: keep_affine(layer, BatchNorm1d(channels_of(layer), eps_of(layer))))


def normalizes_tokens(model: nn.Module) -> bool:
    """Return whether a BatchNorm stands in the place of a LayerNorm."""
    return any(isinstance(each, Tokens) and has_layers(each, _BatchNorm) for each in model.modules())
