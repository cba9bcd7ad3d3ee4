"""The optimizers of local training: ``optimizer=sgd|sgdp|adam|amsgrad|adamw|adamp``.

AMSGrad (Reddi, Kale & Kumar, ICLR 2018) is Adam that divides by the largest mean of squared gradients so far, not by
the present one. SGDP and AdamP (Heo et al., ICLR 2021, arXiv 2006.08217; timm's) take the radial part out of the steps
of weights whose scale does not matter, as in front of BatchNorm or with standardized weights: there it only makes the
weights grow and the effective step shrink.
"""

from collections.abc import Iterable

import torch
from timm.optim.adamp import AdamP
from timm.optim.sgdp import SGDP
from torch import nn

from fedsim.methods.interfaces import LocalTraining


def make_optimizer(parameters: Iterable[nn.Parameter], training: LocalTraining) -> torch.optim.Optimizer:
    """With the learning rate, the momentum (of SGD and SGDP) and the weight decay of ``training``.

    ``weight_decay`` is what each optimizer makes of it: an L2 term in the gradient of SGD, Adam and AMSGrad, decoupled
    from it in AdamW, AdamP and SGDP.
    """
    lr, decay = training.lr, training.weight_decay
    match training.optimizer:
        case "sgd":
            return torch.optim.SGD(parameters, lr=lr, momentum=training.momentum, weight_decay=decay)
        case "sgdp":
            return SGDP(parameters, lr=lr, momentum=training.momentum, weight_decay=decay)  # type: ignore[no-untyped-call]
        case "adam":
            return torch.optim.Adam(parameters, lr=lr, weight_decay=decay)
        case "amsgrad":
            return torch.optim.Adam(parameters, lr=lr, weight_decay=decay, amsgrad=True)
        case "adamw":
            return torch.optim.AdamW(parameters, lr=lr, weight_decay=decay)
        case "adamp":
            return AdamP(parameters, lr=lr, weight_decay=decay)  # type: ignore[no-untyped-call]
        case unknown:
            raise ValueError(f"optimizer={unknown} is not known")
