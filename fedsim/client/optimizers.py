"""The optimizers of local training: ``optimizer=sgd|sgdp|adam|amsgrad|adamw|adamp``.

AMSGrad (Reddi, Kale & Kumar, ICLR 2018) is Adam that divides by the largest mean of squared gradients so far, not by
the present one. SGDP and AdamP (Heo et al., ICLR 2021, arXiv 2006.08217; timm's) take the radial part out of the steps
of weights whose scale does not matter, as in front of BatchNorm or with standardized weights: there it only makes the
weights grow and the effective step shrink.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fedsim.core.errors import UserError

if TYPE_CHECKING:  # which needs the costs, and they need this file
    from fedsim.methods.training import LocalTraining


@dataclass(frozen=True)
class LocalOptimizer:
    """A choice of ``optimizer=``: the one place where it is described."""

    name: str
    make: Callable[..., torch.optim.Optimizer]
    """``(parameters, lr=..., weight_decay=...)``, and ``momentum`` where it takes one"""
    states: int
    """The numbers that it keeps for each weight beside the gradient; momentum is one more"""
    takes_momentum: bool = False

    def numbers_kept(self, momentum: float) -> int:
        """Return how many numbers it keeps for each weight beside the gradient, with that momentum."""
        return self.states + bool(momentum)


def _sgdp(parameters: Iterable[nn.Parameter], **options: Any) -> torch.optim.Optimizer:
    from timm.optim.sgdp import SGDP

    return SGDP(parameters, **options)  # type: ignore[no-untyped-call]


def _adamp(parameters: Iterable[nn.Parameter], **options: Any) -> torch.optim.Optimizer:
    from timm.optim.adamp import AdamP

    return AdamP(parameters, **options)  # type: ignore[no-untyped-call]


TABLE = (
    LocalOptimizer("sgd", torch.optim.SGD, states=0, takes_momentum=True),
    LocalOptimizer("sgdp", _sgdp, states=0, takes_momentum=True),
    LocalOptimizer("adam", torch.optim.Adam, states=2),
    LocalOptimizer("amsgrad", partial(torch.optim.Adam, amsgrad=True), states=3),
    LocalOptimizer("adamw", torch.optim.AdamW, states=2),
    LocalOptimizer("adamp", _adamp, states=2),
)
OPTIMIZERS = {optimizer.name: optimizer for optimizer in TABLE}
"""By name, in the order in which they are offered"""


def make_optimizer(parameters: Iterable[nn.Parameter], training: "LocalTraining") -> torch.optim.Optimizer:
    """Return the optimizer with the learning rate, the momentum (of SGD and SGDP) and the weight decay of ``training``.

    ``weight_decay`` is what each optimizer makes of it: an L2 term in the gradient of SGD, Adam and AMSGrad, decoupled
    from it in AdamW, AdamP and SGDP.

    Raises:
        ValueError: For an optimizer that is not known.
    """
    if training.optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer={training.optimizer} is not known")
    chosen = OPTIMIZERS[training.optimizer]
    momentum = {"momentum": training.momentum} if chosen.takes_momentum else {}
    return chosen.make(parameters, lr=training.lr, weight_decay=training.weight_decay, **momentum)


def refuse_unused_momentum(optimizer: str, momentum: float) -> None:
    """Refuse a momentum that the optimizer would not use.

    Raises:
        UserError: If there is one and the optimizer takes none.
    """
    if momentum and not OPTIMIZERS[optimizer].takes_momentum:
        takers = [each.name for each in TABLE if each.takes_momentum]
        raise UserError(
            f"momentum={momentum} is not used by optimizer={optimizer}: leave it out, or choose {' or '.join(takers)}."
        )
