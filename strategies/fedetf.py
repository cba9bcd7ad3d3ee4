"""FedETF (Li et al., ICCV 2023, arXiv 2303.10058): all clients train features for one fixed classifier."""

from torch import nn

from fedsim.core.errors import UserError
from fedsim.heads import ETFLinear
from fedsim.methods.training import ServerTraining

from .fedavg import FedAvg


class FedETF(FedAvg):
    """FedAvg over everything but the classifier, a simplex frame (``fedsim/heads/etf.py``) that nobody trains.

    To ``head=etf`` the method adds a projection in front of the frame and a trained scale of the cosines, which make
    ``head=projected_etf``, and a balanced loss (``clients/fedetf.py``). The fine-tuning after the last round by which
    the paper makes personal models, of the network, and in turn of the frame and the projection, is not here.

    Raises:
        UserError: If the classifier of the model is not a frame, as of ``head=projected_etf`` or ``head=etf``.
    """

    def __init__(self, model: nn.Module, training: ServerTraining | None = None) -> None:
        super().__init__(model, training)
        if not any(isinstance(layer, ETFLinear) for layer in model.modules()):
            raise UserError("strategy=fedetf needs a fixed classifier: leave head out, or choose head=projected_etf.")
