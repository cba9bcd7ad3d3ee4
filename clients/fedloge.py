"""FedLoGe's client: features are learned for a fixed classifier, two others are trained on them."""

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
"""weight (classes, features) and bias (classes,)"""
REALIGNED = "realigned"
AUXILIARY = "auxiliary"
FEATURES = "features"


class FedLoGe(LocalSGD):
    r"""Minimizes :math:`\mathrm{CE}(g(f), y) + \mathrm{CE}(w(\bar f), y) + \mathrm{CE}(l(\bar f), y)` on features f.

    g is the fixed frame, w the auxiliary (shared) and l the personal classifier; :math:`\bar f` are the same features
    without a gradient, so that the network learns from g alone. One pass through the network serves all three, and SGD
    on the sum is what three optimizers would do.

    The global model predicts with g; its further predictors are ``auxiliary``, w, and ``realigned``, w after every row
    was given the length ``length``. A client predicts with w + l; ``realigned`` puts :math:`\lVert l_c \rVert w_c` for
    the rows of w there, as the authors' code does, or with ``local_rule="readme"`` for those of l (their README).
    """

    def __init__(self, training: LocalTraining, length: float = 1.7, local_rule: str = "code") -> None:
        super().__init__(training)
        if not 0 < length < float("inf"):
            raise UserError(f"strategy.length={length} is not possible: choose a number above 0.")
        if local_rule not in ("code", "readme"):
            raise UserError(f"strategy.local_rule={local_rule} is not known: choose code or readme.")
        self.length, self.local_rule = length, local_rule

    def passes(self, model: nn.Module, context: TrainingContext) -> dict[str, float]:
        """Train while the features that the classifiers are given are seen."""
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
        """Two classifiers whose logits are added are one."""
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
    """Errors: ``RuntimeError`` if the fixed classifier is not there."""
    heads = local_generic_heads(model)
    if heads is None or not heads.generic.made:
        raise RuntimeError(
            "the fixed classifier is missing: the server gives it to a client once, so this client has lost its state"
        )
    return heads
