"""FedWon (Zhuang & Lyu, ICLR 2024, arXiv 2306.05879): standardized weights instead of normalization layers."""

from torch import nn

from fedsim.aggregation import Aggregation
from fedsim.errors import UserError
from fedsim.norms import NORM_LAYERS, ScaledWSConv2d

from .fedavg import FedAvg


class FedWon(FedAvg):
    """FedAvg over all parameters, gains included, of a network without normalization layers.

    What makes it FedWon is the network (``norm=sws``, Eq. 3) and adaptive gradient clipping on the clients
    (``clients/clipped_sgd.py``); the server averages by examples.

    Errors: ``UserError`` if the model has a normalization layer or no standardized convolution.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        weighting: str = "examples",
        fraction: float = 1.0,
        seed: int = 0,
        aggregation: Aggregation | None = None,
    ) -> None:
        super().__init__(model, weighting=weighting, fraction=fraction, seed=seed, aggregation=aggregation)
        layers = list(model.modules())
        left = sorted({type(layer).__name__ for layer in layers if isinstance(layer, NORM_LAYERS)})
        if left or not any(isinstance(layer, ScaledWSConv2d) for layer in layers):
            raise UserError(
                "strategy=fedwon needs standardized convolutions and no normalization layer, and this network has "
                f"{', '.join(left) or 'no standardized convolution'}: leave norm out or choose norm=sws."
            )
