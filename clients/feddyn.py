"""FedDyn's client (Acar et al., ICLR 2021, arXiv 2111.04263): a loss whose optimum is also the federation's."""

import math

import torch
from flwr.app import ArrayRecord
from torch import nn

from clients.local_sgd import LocalSGD
from fedsim.core.errors import UserError
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.methods.interfaces import TrainingContext
from fedsim.methods.training import LocalTraining

GRADIENT = "gradient"
"""The record of the client's state with g."""
START = "start"


class FedDyn(LocalSGD):
    r"""Minimizes :math:`L(y) - \langle g, y \rangle + \frac{\alpha}{2} \lVert y - w \rVert^2` for the model w that was
    sent, over the parameters that travel, and then takes :math:`g \leftarrow g - \alpha (y - w)`, zero at first.

    The terms are added to the gradients; the loss that is reported is L.
    """

    stackable = True

    def __init__(self, training: LocalTraining, alpha: float) -> None:
        super().__init__(training)
        if not 0 < alpha < math.inf:
            raise UserError(f"strategy.alpha={alpha} is not possible: choose a number above 0.")
        self.alpha = alpha

    def begin(self, model: nn.Module, context: TrainingContext) -> None:
        """Remember the start, and g on the device."""
        sent = context.sent.array_records.get("arrays", ArrayRecord())
        kept = context.state.get(GRADIENT)
        gradients = to_tensors(kept) if isinstance(kept, ArrayRecord) else {}
        context.scratch[START] = {
            name: (parameter.detach().clone(), gradients.get(name, torch.zeros_like(parameter)).to(parameter.device))
            for name, parameter in model.named_parameters()
            if name in sent and parameter.requires_grad
        }

    def before_step(self, model: nn.Module, context: TrainingContext) -> None:
        """Add the gradients of the two terms."""
        parameters = dict(model.named_parameters())
        for name, (start, gradient) in context.scratch[START].items():
            parameter = parameters[name]
            if parameter.grad is not None:
                parameter.grad += self.alpha * (parameter.detach() - start) - gradient

    def end(self, model: nn.Module, context: TrainingContext) -> None:
        """Move g and keep it."""
        parameters = dict(model.named_parameters())
        context.state[GRADIENT] = to_record(
            {
                name: gradient - self.alpha * (parameters[name].detach() - start)
                for name, (start, gradient) in context.scratch[START].items()
            }
        )
