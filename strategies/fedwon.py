"""FedWon (Zhuang & Lyu, ICLR 2024, arXiv 2306.05879): standardized weights instead of normalization layers."""

from torch import nn
from torch.nn.modules.conv import _ConvNd

from fedsim.attention import ATTENTION_LAYERS
from fedsim.core.errors import UserError
from fedsim.methods.training import ServerTraining
from fedsim.norms import ScaledWSConvolution, norm_layers

from .fedavg import FedAvg


class FedWon(FedAvg):
    """FedAvg over all parameters, gains included, of a network without normalization layers.

    FedWon consists of the network (``norm=sws``, Eq. 3) and adaptive gradient clipping on the clients
    (``clients/clipped_sgd.py``); the server averages by examples. The paper's ablation without weight standardization
    (Table 5) is ``standardized=False`` with ``norm=none``.

    Raises:
        UserError: If the model has a normalization layer, has no standardized convolution, or has a convolution that
            is not standardized; with ``standardized=False``, if it has any normalization or standardized convolution.
    """

    def __init__(self, model: nn.Module, training: ServerTraining | None = None, *, standardized: bool = True) -> None:
        super().__init__(model, training)
        layers = list(model.modules())
        has = sorted({type(layer).__name__ for layer in layers if isinstance(layer, norm_layers())})
        if not standardized:
            has += sorted({type(layer).__name__ for layer in layers if isinstance(layer, ScaledWSConvolution)})
            if has:
                raise UserError(
                    "strategy.standardized=false needs a network without normalization and standardized convolutions, "
                    f"and this one has {', '.join(has)}: choose norm=none."
                )
            return
        if not any(isinstance(layer, ScaledWSConvolution) for layer in layers):
            has = has or ["no standardized convolution"]
        elif not has:
            has = [f"{path}, a {type(layer).__name__} that is not standardized" for path, layer in _plain(model)[:1]]
        if has:
            raise UserError(
                "strategy=fedwon needs standardized convolutions and no normalization layer, and this network has "
                f"{', '.join(has)}: leave norm out or choose norm=sws."
            )


def _plain(model: nn.Module) -> list[tuple[str, _ConvNd]]:
    """Return the convolutions that are not standardized, except inside attention layers, which ``norm=`` skips."""
    beside = tuple(f"{path}." for path, layer in model.named_modules() if isinstance(layer, ATTENTION_LAYERS))
    return [
        (path, layer)
        for path, layer in model.named_modules()
        if isinstance(layer, _ConvNd) and not isinstance(layer, ScaledWSConvolution) and not path.startswith(beside)
    ]
