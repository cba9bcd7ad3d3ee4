"""APFL's client (Deng, Kamani & Mahdavi 2020, arXiv 2003.13461): a mixture of its own model and the shared one."""

import copy

import torch
from flwr.app import ArrayRecord, MetricRecord
from torch import nn

from clients.local_sgd import LocalSGD, Tensors
from fedsim.client.optimizers import make_optimizer
from fedsim.core.errors import UserError
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.methods.interfaces import ClientContext, TrainingContext
from fedsim.methods.training import LocalTraining

OWN = "own model"
"""The record of the client's state with v."""
ALPHA = "alpha"
"""The record, and its entry, with the share of v in the mixture."""
MIXED, OPTIMIZER = "mixed model", "optimizer"


class APFL(LocalSGD):
    r"""Trains the shared model w as in FedAvg, and its own model v by the loss of their mixture:

    .. math:: \bar v = \alpha v + (1 - \alpha) w, \qquad
              v \leftarrow v - \eta \nabla_v f(\bar v) = v - \eta \alpha \nabla f(\bar v), \qquad
              \alpha \leftarrow \alpha - \eta \langle v - w, \nabla f(\bar v) \rangle

    on the batches of w (Algorithm 1), each time with the v, w and :math:`\alpha` of before the step. v begins as the
    first model that the client is sent and has an optimizer of its own with the same settings; :math:`\alpha` is moved
    in the first step of a round, as in the official code, and kept between 0 and 1.

    The official code mixes the logits of the two models, which for a linear model is the same, takes
    :math:`\alpha^2 + (1 - \alpha)^2` times that slope of :math:`\alpha`, and adds a penalty of 0.02 :math:`\alpha`.

    Running statistics are mixed like weights; v has those of the mixture's passes. A client is evaluated with the
    mixture of v and the shared model that it receives. ``alpha=0`` is FedAvg and ``alpha=1`` local training, bit for
    bit, if ``adaptive=false`` keeps it so.

    Raises:
        UserError: If ``alpha`` is not in [0, 1].
    """

    def __init__(self, training: LocalTraining, alpha: float, adaptive: bool) -> None:
        super().__init__(training)
        if not 0 <= alpha <= 1:
            raise UserError(f"strategy.alpha={alpha} is not possible: choose a number from 0 to 1.")
        self.alpha, self.adaptive = alpha, adaptive

    def begin(self, model: nn.Module, context: TrainingContext) -> None:
        """Make the client's own model and the mixture."""
        own, kept = copy.deepcopy(model), context.state.get(OWN)
        if isinstance(kept, ArrayRecord):
            own.load_state_dict({**model.state_dict(), **to_tensors(kept)})
        mixed = copy.deepcopy(model)
        mixed.load_state_dict(_mixture(own.state_dict(), model.state_dict(), self._alpha(context)))
        context.scratch[OWN], context.scratch[MIXED] = own, mixed
        context.scratch[OPTIMIZER] = make_optimizer(own.parameters(), self.training, context.round)
        context.scratch[ALPHA] = self._alpha(context)

    def before_step(self, model: nn.Module, context: TrainingContext) -> None:
        """Take the step of the client's own model, while the shared one is as it was before its step."""
        own, mixed, alpha = context.scratch[OWN], context.scratch[MIXED], context.scratch[ALPHA]
        assert context.batch is not None
        images, labels = context.batch
        triples = list(zip(own.parameters(), mixed.parameters(), model.parameters(), strict=True))
        with torch.no_grad():
            for v, mixture, w in triples:
                mixture.copy_(alpha * v + (1 - alpha) * w)
        mixed.zero_grad(set_to_none=True)
        super().loss(mixed, mixed(images), labels, context).backward()
        trained = [(v, mixture.grad, w) for v, mixture, w in triples if mixture.grad is not None]
        if self.adaptive and context.step == 0:
            slope = torch.stack([((v - w).detach() * gradient).sum() for v, gradient, w in trained]).sum().item()
            context.scratch[ALPHA] = min(1.0, max(0.0, alpha - self.training.lr_in(context.round) * slope))
        for v, gradient, _ in trained:
            v.grad = alpha * gradient
        context.scratch[OPTIMIZER].step()

    def end(self, model: nn.Module, context: TrainingContext) -> None:
        """Keep the client's own model and its share."""
        own, mixed = context.scratch[OWN], context.scratch[MIXED]
        statistics = dict(mixed.named_buffers())
        context.state[OWN] = to_record(
            {name: statistics.get(name, each).clone() for name, each in own.state_dict().items()}
        )
        context.state[ALPHA] = MetricRecord({ALPHA: context.scratch[ALPHA]})

    def unpack(self, arrays: Tensors, model: nn.Module, context: ClientContext) -> Tensors:
        """Return, for evaluation, the mixture, once there is a model of the client's own."""
        kept = context.state.get(OWN)
        if isinstance(context, TrainingContext) or not isinstance(kept, ArrayRecord):
            return arrays
        return _mixture(to_tensors(kept), arrays, self._alpha(context))

    def _alpha(self, context: ClientContext) -> float:
        kept = context.state.get(ALPHA)
        return float(str(kept[ALPHA])) if isinstance(kept, MetricRecord) else self.alpha


def _mixture(own: Tensors, shared: Tensors, alpha: float) -> dict[str, torch.Tensor]:
    """Return the mixture of weights and statistics; counters and what is not shared are the client's own."""
    return {
        name: alpha * each + (1 - alpha) * shared[name].to(each)
        if name in shared and each.is_floating_point()
        else each
        for name, each in own.items()
    }
