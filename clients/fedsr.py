"""FedSR's client (Nguyen, Torr & Lim, NeurIPS 2022): a simple representation, for domains that nobody trains on."""

import torch
from torch import nn
from torch.nn import functional as F

from clients.local_sgd import LocalSGD
from fedsim.core.errors import UserError
from fedsim.heads.stochastic import ClassReference, Drawn, StochasticHead, draws_seen, stochastic_head
from fedsim.methods.interfaces import TrainingContext
from fedsim.methods.training import LocalTraining

DRAWS = "draws"


class FedSR(LocalSGD):
    r"""Minimizes, with one draw :math:`z \sim p(z \mid x) = \mathcal N(\mu, \sigma^2)` for each image,

    .. math:: \mathrm{CE}(g(z), y) + \alpha \, \lVert z \rVert_2
              + \beta \, \mathrm{KL}\bigl(p(Cz \mid x) \,\|\, r(z \mid y)\bigr).

    The second term (L2R) bounds the mutual information of z and the image, the third (CMI) that given the label; it is
    summed over the dimensions. The references r, normal with a mean and a deviation of each class, and the scale C are
    trained with the network and stay on the client. As the authors' code has it (atuannguyen/FedSR at ba8d894), where
    the optimizer of a client also keeps its momentum from round to round; here it is new in every round.

    Raises:
        UserError: If ``l2r`` or ``cmi`` is negative or not finite.
    """

    def __init__(self, training: LocalTraining, l2r: float, cmi: float) -> None:
        super().__init__(training)
        for key, value in (("l2r", l2r), ("cmi", cmi)):
            if not 0 <= value < float("inf"):
                raise UserError(f"strategy.{key}={value} is not possible: choose a number of at least 0.")
        self.l2r, self.cmi = l2r, cmi

    def passes(self, model: nn.Module, context: TrainingContext) -> dict[str, float]:
        """Train while recording what the head draws, which ``loss`` takes; return the metrics."""
        with draws_seen(_head_of(model)) as context.scratch[DRAWS]:
            return super().passes(model, context)

    def loss(
        self, model: nn.Module, logits: torch.Tensor, labels: torch.Tensor, context: TrainingContext
    ) -> torch.Tensor:
        """Return the sum of the three terms."""
        drawn: Drawn = context.scratch[DRAWS].pop()
        length: torch.Tensor = drawn.sample.norm(dim=1).mean()
        divergence = conditional_information(drawn, _head_of(model).reference, labels)
        return super().loss(model, logits, labels, context) + self.l2r * length + self.cmi * divergence


def conditional_information(drawn: Drawn, reference: ClassReference, labels: torch.Tensor) -> torch.Tensor:
    r"""Return :math:`\mathrm{KL}(\mathcal N(C\mu, (C\sigma)^2) \,\|\, r(z \mid y))`, summed over the dimensions of a
    representation and averaged over the batch."""
    mean, deviation = reference.scale * drawn.mean, reference.scale * drawn.deviation
    of_class, spread = reference.mean[labels], F.softplus(reference.deviation)[labels]
    terms = spread.log() - deviation.log() + (deviation**2 + (mean - of_class) ** 2) / (2 * spread**2) - 0.5
    divergence: torch.Tensor = terms.sum(1).mean()
    return divergence


def _head_of(model: nn.Module) -> StochasticHead:
    head = stochastic_head(model)
    assert head is not None  # else the server strategy has refused the model
    return head
