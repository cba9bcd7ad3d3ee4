"""Layers that cannot train on one image at a time: behind a linear layer it would have no deviation."""

from timm.layers.evo_norm import EvoNorm2dB0
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.core.errors import UserError

NEED_A_BATCH = (_BatchNorm, EvoNorm2dB0)


def refuse_batch_of_one(model: nn.Module, norm: str) -> None:
    """Refuse ``batch_size=1`` where a layer of the model normalizes over the batch.

    Raises:
        UserError: Naming the norm.
    """
    if any(isinstance(layer, NEED_A_BATCH) for layer in model.modules()):
        raise UserError(
            f"batch_size=1 gives norm={norm} no batch to normalize over: choose at least 2, or another norm."
        )
