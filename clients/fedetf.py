"""FedETF's client (Li et al., ICCV 2023, arXiv 2303.10058): local SGD on a loss that knows the sizes of classes."""

import torch
from torch import nn
from torch.nn import functional as F

from clients.balanced_softmax import check_gamma, log_prior
from clients.local_sgd import LocalSGD
from fedsim.methods.interfaces import TrainingContext
from fedsim.methods.training import LocalTraining

PRIOR = "prior"


class FedETF(LocalSGD):
    """Minimizes a balanced softmax (``clients/balanced_softmax.py``) of the cosines with the frame.

    As in the official code a class of which the client has no image counts as if it had one. With ``gamma=0`` it is
    local SGD, bit for bit.

    Raises:
        UserError: If ``gamma`` is negative or not finite.
    """

    def __init__(self, training: LocalTraining, gamma: float) -> None:
        super().__init__(training)
        check_gamma(gamma)
        self.gamma = gamma

    def loss(
        self, model: nn.Module, logits: torch.Tensor, labels: torch.Tensor, context: TrainingContext
    ) -> torch.Tensor:
        """Return the balanced loss."""
        if PRIOR not in context.scratch:
            prior = log_prior(context.data.labels, logits.shape[1], self.gamma, least=1)
            context.scratch[PRIOR] = prior.to(logits)
        return F.cross_entropy(logits + context.scratch[PRIOR], labels)
