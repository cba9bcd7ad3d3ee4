"""Refusals of ``engine=vectorized``, before any work: of methods, optimizers and networks that it cannot train.

Whether a network can be trained is tried: two copies of it with different weights make a step, together and one after
the other.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import nn
from torch.nn import functional as F

from fedsim.client.optimizers import OPTIMIZERS
from fedsim.client.stack import stacked
from fedsim.client.stacked_step import StackedStep, Stacks
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.methods.interfaces import LocalTrainer, TrainingContext
from fedsim.methods.stackable import is_stackable
from fedsim.models.first_pass import ImageShape, reason_of
from fedsim.norms.policy import NormPolicy

IMAGES = 4
"""The batch of the trial."""
TOLERANCE = 0.01
"""The largest difference of the two ways, as a share of the length: rounding stays far below it."""
FLOOR = 1e-5
"""The same as a share of the longest tensor: a gradient that should be zero consists of rounding errors."""


def refuse_unstackable(
    settings: Settings, trainer: LocalTrainer, model: nn.Module, image_shape: ImageShape, num_classes: int
) -> None:
    """Refuse what cannot be trained as each client would alone; the model is not changed.

    Raises:
        UserError: If the trainer's class does not say that it is stackable, the optimizer mixes the numbers of a
            tensor, or the network draws random numbers or cannot be computed for several clients at once.
    """
    if not is_stackable(trainer):
        raise UserError(
            f"strategy={settings.strategy['name']} is not possible with engine=vectorized, since the training of its "
            f"client {type(trainer).__name__} is no sequence of steps that depend on model and batch alone: choose "
            "engine=process."
        )
    if not OPTIMIZERS[settings.optimizer].elementwise:
        possible = ", ".join(each.name for each in OPTIMIZERS.values() if each.elementwise)
        raise UserError(
            f"optimizer={settings.optimizer} is not possible with engine=vectorized, since its step of a "
            f"weight depends on other weights: choose optimizer={possible}, or engine=process."
        )
    fault = fault_of(model, NormPolicy.of(settings.norm, settings.rounds), image_shape, num_classes)
    if fault is not None:
        raise UserError(
            f"model={settings.model['name']} with norm={settings.norm['name']} is not possible with engine=vectorized, "
            f"since {fault}: choose engine=process."
        )


def fault_of(model: nn.Module, policy: NormPolicy, image_shape: ImageShape, num_classes: int) -> str | None:
    """Return why a network cannot be trained for several clients at once; ``None`` if it can."""
    generator = torch.Generator().manual_seed(0)
    models = [_noisy(model, generator) for _ in range(2)]
    images = torch.rand(2, IMAGES, *image_shape, generator=generator) * 2 - 1
    labels = torch.randint(num_classes, (2, IMAGES), generator=generator)
    network = deepcopy(models[0])
    with torch.random.fork_rng(devices=[]), _innermost(network) as entered:
        try:
            alone = stacked([_alone(each, policy, *batch) for each, *batch in zip(models, images, labels, strict=True)])
            together = _together(network, models, policy, images, labels)
        except Exception as error:  # a network may raise anything
            layer = f"its layer {type(entered[-1]).__name__}" if entered else "it"
            if "random" in str(error):
                return f"{layer} draws random numbers in training, which each client draws for itself"
            return f"{layer} cannot be computed for several clients at once ({reason_of(error)})"
    floor = max(float(each.double().norm()) for each in alone.values()) * FLOOR
    wrong = [name for name, expected in alone.items() if not _equal(expected, together[name], floor)]
    return f"{', '.join(wrong)} would have other values than each client's alone" if wrong else None


class _CrossEntropy:
    """The plain loss."""

    def loss(
        self, model: nn.Module, logits: torch.Tensor, labels: torch.Tensor, context: TrainingContext
    ) -> torch.Tensor:
        return F.cross_entropy(logits, labels)

    def before_step(self, model: nn.Module, context: TrainingContext) -> None:
        """Change nothing."""


def _noisy(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Return a copy in training mode whose parameters differ a little, so that a mixture of copies is noticed."""
    copied = deepcopy(model).train()
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.01)
    return copied


def _alone(model: nn.Module, policy: NormPolicy, images: torch.Tensor, labels: torch.Tensor) -> Stacks:
    """Return the loss, the gradients and the buffers of one network's step, by name."""
    network = deepcopy(model)
    with policy.training(network, round=1):
        loss = F.cross_entropy(network(images), labels)
        loss.backward()
    gradients = {name: each.grad for name, each in network.named_parameters() if each.grad is not None}
    return {"the loss": loss.detach(), **gradients, **dict(network.named_buffers())}


def _together(
    network: nn.Module, models: list[nn.Module], policy: NormPolicy, images: torch.Tensor, labels: torch.Tensor
) -> Stacks:
    """Return what ``_alone`` returns for each of the models, stacked."""
    parameters: Stacks = stacked([{name: each.detach() for name, each in one.named_parameters()} for one in models])
    for name, each in network.named_parameters():
        parameters[name].requires_grad_(each.requires_grad)
    buffers: Stacks = stacked([dict(one.named_buffers()) for one in models])
    with policy.training(network, round=1):
        step = StackedStep(network, _CrossEntropy(), round=1)
        losses, _, buffers = step.forward(parameters, buffers, {}, images, labels)
        losses.sum().backward()
    gradients = {name: each.grad for name, each in parameters.items() if each.grad is not None}
    return {"the loss": losses.detach(), **gradients, **buffers}


@contextmanager
def _innermost(network: nn.Module) -> Iterator[list[nn.Module]]:
    """Yield a list of the modules whose forward pass has begun and not ended."""
    entered: list[nn.Module] = []
    hooks = []
    for module in network.modules():
        hooks.append(module.register_forward_pre_hook(lambda module, _: entered.append(module)))
        hooks.append(module.register_forward_hook(lambda *_: entered.pop() and None))
    try:
        yield entered
    finally:
        for hook in hooks:
            hook.remove()


def _equal(one: torch.Tensor, other: torch.Tensor, floor: float) -> bool:
    one, other = one.double(), other.double()
    return bool((one - other).norm() <= max(TOLERANCE * one.norm(), floor))
