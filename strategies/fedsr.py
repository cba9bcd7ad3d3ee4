"""FedSR (Nguyen, Torr & Lim, NeurIPS 2022): a simple representation, for domains that nobody trains on."""

from torch import nn

from fedsim.core.errors import UserError
from fedsim.heads.stochastic import ClassReference, stochastic_head
from fedsim.methods.training import ServerTraining

from .fedavg import FedAvg


class FedSR(FedAvg):
    """FedAvg over the network and its head; the references of the classes never leave their client.

    What the clients minimize is in ``clients/fedsr.py``. The ``device_gflops`` of training count the draws of
    evaluation, too, a hundredth of a small network's.

    Raises:
        UserError: If the model does not end in ``head=stochastic``, or a part of the head is frozen.
    """

    personal_modules = (ClassReference,)

    def __init__(self, model: nn.Module, training: ServerTraining | None = None) -> None:
        super().__init__(model, training)
        head = stochastic_head(model)
        if head is None:
            raise UserError(
                "strategy=fedsr needs a network with a random representation: leave head out, or choose "
                "head=stochastic."
            )
        if not all(parameter.requires_grad for parameter in head.parameters()):
            raise UserError("strategy=fedsr trains the network and the whole of its head: leave train_only out.")
