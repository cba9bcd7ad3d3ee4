"""The optimizers of local training: ``optimizer=sgd|sgdp|adam|amsgrad|adamw|adamp``.

AMSGrad (Reddi, Kale & Kumar, ICLR 2018) is Adam that divides by the largest mean of squared gradients so far instead of
the current one. SGDP and AdamP (Heo et al., ICLR 2021, arXiv 2006.08217; timm's implementation) remove the radial
component from the steps of scale-invariant weights, such as weights before BatchNorm or standardized weights: there it
would only increase the norm of the weights and so decrease the effective step size.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fedsim.core.errors import UserError

if TYPE_CHECKING:  # a circular import otherwise: it imports the costs, which import this file
    from fedsim.methods.training import LocalTraining


@dataclass(frozen=True)
class LocalOptimizer:
    """A choice of ``optimizer=`` with all its properties."""

    name: str
    make: Callable[..., torch.optim.Optimizer]
    """Called as ``(parameters, lr=..., weight_decay=...)``, with ``momentum`` if ``takes_momentum``."""
    states: int
    """Numbers of state for each weight beside the gradient; momentum is one more."""
    takes_momentum: bool = False
    elementwise: bool = True
    """Whether the step of a weight depends on its own gradients alone."""

    def numbers_kept(self, momentum: float) -> int:
        """Return how many numbers of state it has for each weight beside the gradient, with that momentum."""
        return self.states + bool(momentum)


def _sgdp(parameters: Iterable[nn.Parameter], **options: Any) -> torch.optim.Optimizer:
    from timm.optim.sgdp import SGDP

    return SGDP(parameters, **options)  # type: ignore[no-untyped-call]


def _adamp(parameters: Iterable[nn.Parameter], **options: Any) -> torch.optim.Optimizer:
    from timm.optim.adamp import AdamP

    return AdamP(parameters, **options)  # type: ignore[no-untyped-call]


TABLE = (
    LocalOptimizer("sgd", torch.optim.SGD, states=0, takes_momentum=True),
    LocalOptimizer("sgdp", _sgdp, states=0, takes_momentum=True, elementwise=False),
    LocalOptimizer("adam", torch.optim.Adam, states=2),
    LocalOptimizer("amsgrad", partial(torch.optim.Adam, amsgrad=True), states=3),
    LocalOptimizer("adamw", torch.optim.AdamW, states=2),
    LocalOptimizer("adamp", _adamp, states=2, elementwise=False),
)
OPTIMIZERS = {optimizer.name: optimizer for optimizer in TABLE}
"""The optimizers by name, in the order in which messages list them."""


def make_optimizer(
    parameters: Iterable[torch.Tensor], training: "LocalTraining", server_round: int = 1
) -> torch.optim.Optimizer:
    """Return the optimizer with the learning rate of the round, the momentum (of SGD and SGDP) and the weight decay.

    ``weight_decay`` is an L2 term in the gradient for SGD, Adam and AMSGrad, and decoupled from the gradient for AdamW,
    AdamP and SGDP.

    Raises:
        ValueError: If the optimizer is unknown.
    """
    if training.optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer={training.optimizer} is not known")
    chosen = OPTIMIZERS[training.optimizer]
    momentum = {"momentum": training.momentum} if chosen.takes_momentum else {}
    return chosen.make(parameters, lr=training.lr_in(server_round), weight_decay=training.weight_decay, **momentum)


def refuse_unused_momentum(optimizer: str, momentum: float) -> None:
    """Refuse a momentum that the optimizer would not use.

    Raises:
        UserError: If momentum is not zero and the optimizer has none.
    """
    if momentum and not OPTIMIZERS[optimizer].takes_momentum:
        takers = [each.name for each in TABLE if each.takes_momentum]
        raise UserError(
            f"momentum={momentum} is not used by optimizer={optimizer}: leave it out, or choose {' or '.join(takers)}."
        )
