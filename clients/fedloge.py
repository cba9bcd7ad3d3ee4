"""FedLoGe's client: features are trained through a fixed classifier, and two further classifiers on these features."""

import torch
from torch import nn
from torch.nn import functional as F

from clients.local_sgd import LocalSGD
from clients.realignment import rescaled, with_lengths_of
from fedsim.core.errors import UserError
from fedsim.heads import LocalGenericHeads, local_generic_heads
from fedsim.methods.interfaces import PLAIN, ClientContext, TrainingContext
from fedsim.methods.training import LocalTraining
from fedsim.models.classifier import features_seen

Linear = tuple[torch.Tensor, torch.Tensor]
"""Weight (classes, features) and bias (classes,)."""
REALIGNED = "realigned"
AUXILIARY = "auxiliary"
FEATURES = "features"


class FedLoGe(LocalSGD):
    r"""Minimizes :math:`\mathrm{CE}(g(f), y) + \mathrm{CE}(w(\bar f), y) + \mathrm{CE}(l(\bar f), y)` on features f.

    g is the fixed frame, w the auxiliary (shared) and l the personal classifier; :math:`\bar f` are the same features,
    detached, so that the network learns from g alone. All three share one pass through the network, and SGD on the sum
    equals three separate optimizers.

    The global model predicts with g; its further predictors are ``auxiliary``, w, and ``realigned``, w with every row
    rescaled to the norm ``length``. A client predicts with w + l; its predictor ``realigned`` replaces the rows of w in
    this sum by :math:`\lVert l_c \rVert w_c`, as the authors' code does, or with ``local_rule="readme"`` those of l
    (their README).

    Raises:
        UserError: If ``length`` is not above 0 or ``local_rule`` is unknown.
    """

    def __init__(self, training: LocalTraining, length: float = 1.7, local_rule: str = "code") -> None:
        super().__init__(training)
        if not 0 < length < float("inf"):
            raise UserError(f"strategy.length={length} is not possible: choose a number above 0.")
        if local_rule not in ("code", "readme"):
            raise UserError(f"strategy.local_rule={local_rule} is not known: choose code or readme.")
        self.length, self.local_rule = length, local_rule

    def passes(self, model: nn.Module, context: TrainingContext) -> dict[str, float]:
        """Train while recording the inputs of the classifiers, which ``loss`` takes; return the metrics."""
        with features_seen(_heads_of(model).generic) as context.scratch[FEATURES]:
            return super().passes(model, context)

    def loss(
        self, model: nn.Module, logits: torch.Tensor, labels: torch.Tensor, context: TrainingContext
    ) -> torch.Tensor:
        """Return the sum of the three classifiers' losses."""
        heads = _heads_of(model)
        features = context.scratch[FEATURES].pop().detach()
        trained = (logits, heads.auxiliary(features), heads.personal(features))
        return torch.stack([F.cross_entropy(each, labels) for each in trained]).sum()

    def predict(self, model: nn.Module, images: torch.Tensor, context: ClientContext) -> dict[str, torch.Tensor]:
        """Return the logits of each predictor, from one pass through the network."""
        heads = _heads_of(model)
        predictors = self._of_client(heads) if context.own else self._of_all(heads)

        def answer(features: torch.Tensor) -> torch.Tensor:
            return torch.stack([F.linear(features, weight, bias) for weight, bias in predictors.values()], dim=1)

        with heads.answering(answer):
            answers = model(images)
        return dict(zip(predictors, answers.unbind(1), strict=True))

    def _of_all(self, heads: LocalGenericHeads) -> dict[str, Linear]:
        generic, auxiliary = heads.generic, heads.auxiliary
        return {
            PLAIN: (generic.weight, generic.bias),
            REALIGNED: (rescaled(auxiliary.weight, self.length), auxiliary.bias),
            AUXILIARY: (auxiliary.weight, auxiliary.bias),
        }

    def _of_client(self, heads: LocalGenericHeads) -> dict[str, Linear]:
        """Return weight and bias by predictor; adding the logits of two classifiers equals adding their weights."""
        auxiliary, personal = heads.auxiliary, heads.personal
        kept = personal.weight if self.local_rule == "code" else auxiliary.weight
        return {
            PLAIN: (auxiliary.weight + personal.weight, auxiliary.bias + personal.bias),
            REALIGNED: (
                with_lengths_of(auxiliary.weight, personal.weight) + kept,
                auxiliary.bias + personal.bias,
            ),
        }


def _heads_of(model: nn.Module) -> LocalGenericHeads:
    """Return the three classifiers of the model.

    Raises:
        RuntimeError: If the fixed classifier is missing, which the server sends to a client only once.
    """
    heads = local_generic_heads(model)
    if heads is None or not heads.generic.made:
        raise RuntimeError(
            "the fixed classifier is missing: the server gives it to a client once, so this client has lost its state"
        )
    return heads
