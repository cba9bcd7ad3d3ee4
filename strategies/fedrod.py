"""FedRoD (Chen & Chao, ICLR 2022, arXiv 2107.00778): one network with a generic and a personal classifier."""

from torch import nn

from fedsim.core.errors import UserError
from fedsim.cost import Workload
from fedsim.heads import PersonalLinear, generic_personal_heads
from fedsim.methods.training import ServerTraining

from .fedavg import FedAvg


class FedRoD(FedAvg):
    """FedAvg over the network and the generic classifier; the personal classifier never leaves its client.

    What the two are trained for is in ``clients/fedrod.py``. The personal classifier is linear, the paper's
    "Fed-RoD (linear)"; its variant with a hypernetwork, which makes personal classifiers of the clients' class
    distributions, is not here.

    Raises:
        UserError: If the model does not end in the two classifiers of ``head=generic_personal``, or they are frozen.
    """

    personal_modules = (PersonalLinear,)

    def __init__(self, model: nn.Module, training: ServerTraining | None = None) -> None:
        super().__init__(model, training)
        heads = generic_personal_heads(model)
        if heads is None:
            raise UserError(
                "strategy=fedrod needs a network that ends in its two classifiers: leave head out, or choose "
                "head=generic_personal."
            )
        if not (heads.generic.weight.requires_grad and heads.personal.weight.requires_grad):
            raise UserError("strategy=fedrod trains the network and two classifiers: leave train_only out.")
        self.training_load = Workload(
            beside=[name for name, module in model.named_modules() if module is heads.personal]
        )
