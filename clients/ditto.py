"""Ditto's client (Li et al., ICML 2021, arXiv 2012.04221): a model of its own is held near the shared one."""

import math

import torch
from flwr.app import ArrayRecord
from torch import nn

from clients.local_sgd import LocalSGD, Tensors
from fedsim.core.errors import UserError
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.methods.interfaces import ClientContext, TrainingContext
from fedsim.methods.training import LocalTraining

OWN = "own model"
"""The record of the client's state with its own model."""
NEAR = "near"


class Ditto(LocalSGD):
    r"""Trains the shared model as in FedAvg, and then its own model v on
    :math:`L(v) + \frac{\lambda}{2} \lVert v - w \rVert^2` (Eq. 1, Algorithm 1), where w is the model that was sent.

    Both make ``local_epochs`` passes, on the same batches, so that ``lam=0`` is local training, bit for bit, for a
    client that takes part from the first round on. The metrics are those of the shared model. v begins as the first
    model that the client is sent, and is what it is evaluated with. The global model is the shared one.
    """

    def __init__(self, training: LocalTraining, lam: float) -> None:
        super().__init__(training)
        if not 0 <= lam < math.inf:
            raise UserError(f"strategy.lam={lam} is not possible: choose a number of at least 0.")
        self.lam = lam

    def epochs(self) -> int:
        """Return the passes for both models."""
        return 2 * self.training.local_epochs

    def passes(self, model: nn.Module, context: TrainingContext) -> dict[str, float]:
        """Train the shared model, then the client's own; the shared one is left in the model."""
        start, drawn = _copy_of(model), context.generator.get_state()
        metrics = super().passes(model, context)
        shared = _copy_of(model)
        kept = context.state.get(OWN)
        model.load_state_dict({**start, **(to_tensors(kept) if isinstance(kept, ArrayRecord) else {})})
        context.scratch[NEAR] = start
        context.generator.set_state(drawn)
        super().passes(model, context)
        context.state[OWN] = to_record(_copy_of(model))
        model.load_state_dict(shared)
        return metrics

    def before_step(self, model: nn.Module, context: TrainingContext) -> None:
        """Add the gradient of the proximal term, while the client's own model is trained."""
        if NEAR in context.scratch:
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    parameter.grad += self.lam * (parameter.detach() - context.scratch[NEAR][name])

    def unpack(self, arrays: Tensors, model: nn.Module, context: ClientContext) -> Tensors:
        """Return, for evaluation, the client's own model once there is one."""
        kept = context.state.get(OWN)
        if isinstance(context, TrainingContext) or not isinstance(kept, ArrayRecord):
            return arrays
        return to_tensors(kept)


def _copy_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
