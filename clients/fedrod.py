"""FedRoD's client (Chen & Chao, ICLR 2022, arXiv 2107.00778): a balanced loss for all, and a plain one for itself."""

import torch
from torch import nn
from torch.nn import functional as F

from clients.balanced_softmax import check_gamma, log_prior
from clients.local_sgd import LocalSGD
from fedsim.heads import GenericPersonalHeads, generic_personal_heads
from fedsim.methods.interfaces import PLAIN, ClientContext, TrainingContext
from fedsim.methods.training import LocalTraining
from fedsim.models.classifier import features_seen

FEATURES, PRIOR = "features", "prior"
GENERIC = "generic"


class FedRoD(LocalSGD):
    r"""Minimizes :math:`\mathrm{BSM}(g(f), y) + \mathrm{CE}(\bar g(\bar f) + p(\bar f), y)` on features f.

    g is the generic (shared) and p the personal classifier; a bar means detached, so that the network and g learn from
    the first term alone, a balanced softmax (``clients/balanced_softmax.py``), and p from the second. Both share one
    pass through the network, and SGD on the sum equals two optimizers, one after the other on the same features.

    The global model predicts with g, a client with g + p, and its predictor ``generic`` with g.

    Raises:
        UserError: If ``gamma`` is negative or not finite.
    """

    def __init__(self, training: LocalTraining, gamma: float) -> None:
        super().__init__(training)
        check_gamma(gamma)
        self.gamma = gamma

    def begin(self, model: nn.Module, context: TrainingContext) -> None:
        """Count the client's images of each class."""
        generic = _heads_of(model).generic
        context.scratch[PRIOR] = log_prior(context.data.labels, generic.out_features, self.gamma).to(generic.weight)

    def passes(self, model: nn.Module, context: TrainingContext) -> dict[str, float]:
        """Train while recording the inputs of the classifiers, which ``loss`` takes; return the metrics."""
        with features_seen(_heads_of(model).generic) as context.scratch[FEATURES]:
            return super().passes(model, context)

    def loss(
        self, model: nn.Module, logits: torch.Tensor, labels: torch.Tensor, context: TrainingContext
    ) -> torch.Tensor:
        """Return the sum of the two losses."""
        personal = _heads_of(model).personal(context.scratch[FEATURES].pop().detach())
        balanced = F.cross_entropy(logits + context.scratch[PRIOR], labels)
        return balanced + F.cross_entropy(logits.detach() + personal, labels)

    def predict(self, model: nn.Module, images: torch.Tensor, context: ClientContext) -> dict[str, torch.Tensor]:
        """Return the logits of each predictor, from one pass through the network."""
        heads = _heads_of(model)
        with features_seen(heads.generic) as seen:
            logits = model(images)
        if not context.own:
            return {PLAIN: logits}
        return {PLAIN: logits + heads.personal(seen.pop()), GENERIC: logits}


def _heads_of(model: nn.Module) -> GenericPersonalHeads:
    heads = generic_personal_heads(model)
    assert heads is not None  # else the server strategy has refused the model
    return heads
