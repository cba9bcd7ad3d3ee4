"""``norm=bn``: Batch Normalization (Ioffe & Szegedy 2015, arXiv 1502.03167), as the model's author placed it."""

from torch import nn


def keep_batch_norm(model: nn.Module) -> nn.Module:
    return model
