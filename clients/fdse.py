"""FDSE's client (Wang et al., CVPR 2025, arXiv 2503.13063): deskewed features are held near the global statistics."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from clients.local_sgd import LocalSGD
from fedsim.core.errors import UserError
from fedsim.methods.interfaces import TrainingContext
from fedsim.methods.training import LocalTraining
from fedsim.norms import deskewed_norms
from fedsim.norms.moments import precise
from fedsim.norms.shapes import all_but_channels

SMALLEST = 1e-8
"""Added to a variance that something is divided by."""
GLOBAL, SEEN, RUNNING = "global statistics", "seen", "running"


class FDSE(LocalSGD):
    r"""From the second round on adds :math:`\lambda` times a distance between statistics behind the erasers,

    .. math:: \sum_l w_l \, \mathrm{mean}_c \Big( \frac{\mu_{l,c}^2 - m^2}{2 v}
        + \frac{1}{2} \log \frac{v}{\sigma_{l,c}^2 + \epsilon} + \frac{\sigma_{l,c}^2}{2 (v + \epsilon)} \Big),
        \qquad w_l \propto e^{\beta l}

    with the global running mean :math:`\mu` and variance :math:`\sigma^2` of each channel c in the l-th BatchNorm
    behind an eraser, as the round starts with them. m and v are a running mean and variance (momentum 0.1) of the
    batch's channel means: as in the authors' code (WwZzz/FDSE_CVPR25, 01f7bd7), they are single numbers, over the
    channels of a layer, and run on from layer to layer and from step to step. Gradients flow through the current step
    only. The paper's formula was not consulted. The term with :math:`m^2` has no lower bound, and a bias in front of a
    BatchNorm moves m at no other cost: without ``clip_norm``, the norm to which all gradients together are shortened
    before a step (10 in the authors' settings), training may run away.

    Raises:
        UserError: If ``lam`` or ``beta`` is below 0, or ``clip_norm`` not above 0.
    """

    def __init__(self, training: LocalTraining, lam: float, beta: float, clip_norm: float | None = None) -> None:
        super().__init__(training)
        for key, value in (("lam", lam), ("beta", beta)):
            if not 0 <= value < math.inf:
                raise UserError(f"strategy.{key}={value} is not possible: choose a number of at least 0.")
        if clip_norm is not None and not clip_norm > 0:
            raise UserError(
                f"strategy.clip_norm={clip_norm} is not possible: choose a number above 0, or null for no clipping."
            )
        self.lam, self.beta, self.clip_norm = lam, beta, clip_norm

    def begin(self, model: nn.Module, context: TrainingContext) -> None:
        """Copy the global statistics."""
        context.scratch[GLOBAL] = [
            (layer.running_mean.clone(), layer.running_var.clone())
            for layer in deskewed_norms(model).values()
            if layer.running_mean is not None and layer.running_var is not None
        ]

    def passes(self, model: nn.Module, context: TrainingContext) -> dict[str, float]:
        """Train while the channel means in front of those BatchNorms are seen."""
        with _channel_means(list(deskewed_norms(model).values())) as context.scratch[SEEN]:
            return super().passes(model, context)

    def loss(
        self, model: nn.Module, logits: torch.Tensor, labels: torch.Tensor, context: TrainingContext
    ) -> torch.Tensor:
        """Return the cross entropy and, from the second round on, the regularization."""
        seen = list(context.scratch[SEEN])
        context.scratch[SEEN].clear()
        loss = super().loss(model, logits, labels, context)
        if context.round < 2 or not self.lam:
            return loss
        weights = (
            torch.tensor([self.beta * layer for layer in range(len(seen))], dtype=torch.float64).softmax(0).tolist()
        )
        running: tuple[torch.Tensor, torch.Tensor] | None = context.scratch.get(RUNNING)
        distance = torch.zeros_like(loss)
        for weight, means, (mean, variance) in zip(weights, seen, context.scratch[GLOBAL], strict=True):
            now = means.mean(), means.var()
            running = now if running is None else (running[0].lerp(now[0], 0.1), running[1].lerp(now[1], 0.1))
            m, v = running
            of_means = (mean.square() - m.square()) / (2 * v)
            of_variances = torch.log(v / (variance + SMALLEST)) + variance / (v + SMALLEST)
            distance = distance + weight * (of_means + of_variances / 2).mean()
        assert running is not None
        context.scratch[RUNNING] = tuple(each.detach() for each in running)
        return loss + self.lam * distance

    def before_step(self, model: nn.Module, context: TrainingContext) -> None:
        """Shorten the gradients of all parameters together, in place."""
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), self.clip_norm)


@contextmanager
def _channel_means(layers: list[_BatchNorm]) -> Iterator[list[torch.Tensor]]:
    """Yield a list to which each layer's forward pass adds the mean of its input over images and pixels, (C,)."""
    seen: list[torch.Tensor] = []

    def see(layer: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        seen.append(precise(args[0]).mean(all_but_channels(args[0])))

    hooks = [layer.register_forward_pre_hook(see) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
