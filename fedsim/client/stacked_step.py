"""One step of many clients at once: the functions of one client's step, mapped over stacks of tensors.

``torch.func.vmap`` computes, from a function of one client's tensors, that of stacks with all clients' tensors; a
convolution by many weights becomes a grouped convolution. It raises an error where a function draws random numbers or
asks a tensor for a number, so that nothing is computed but what each client would compute alone.
"""

from collections.abc import Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any, Protocol, cast

import torch
from torch import nn
from torch.func import functional_call, vmap

from fedsim.methods.interfaces import TrainingContext

Stacks = dict[str, torch.Tensor]
"""Tensors by name, whose first dimension is that of the clients."""
Constants = Mapping[str, Any]
"""Stacks in dictionaries and tuples: what ``scratch`` holds."""


class StepHooks(Protocol):
    """The two hooks of a step."""

    def loss(
        self, model: nn.Module, logits: torch.Tensor, labels: torch.Tensor, context: TrainingContext
    ) -> torch.Tensor: ...

    def before_step(self, model: nn.Module, context: TrainingContext) -> None: ...


class StackedStep:
    """The forward pass and the changes of gradients of one step, for stacks of clients."""

    def __init__(self, model: nn.Module, hooks: StepHooks, round: int) -> None:
        self._forward, self._change = _Forward(model, hooks, round), _Change(model, hooks, round)

    def forward(
        self, parameters: Stacks, buffers: Stacks, constants: Constants, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, Stacks]:
        """Return losses (K,) with their graph, the predicted classes (K, N), and the buffers after the step.

        Args:
            parameters: The parameters of K clients.
            buffers: Their buffers; they may be changed in place.
            constants: Their constants.
            images: (K, N, channels, height, width)
            labels: (K, N)
        """

        def one(parameters: Stacks, buffers: Stacks, *rest: Any) -> Any:
            return functional_call(self._forward, _inside({**parameters, **buffers}), rest)

        answer: tuple[torch.Tensor, torch.Tensor, Stacks] = vmap(one, randomness="error")(
            parameters, buffers, constants, images, labels
        )
        return answer

    def changed(self, parameters: Stacks, gradients: Stacks, constants: Constants) -> Stacks:
        """Return the gradients as ``before_step`` leaves them; a parameter that is not among them has none."""

        def one(parameters: Stacks, *rest: Any) -> Any:
            return functional_call(self._change, _inside(parameters), rest)

        with torch.no_grad():
            answer: Stacks = vmap(one, randomness="error")(parameters, gradients, constants)
        return answer


class _Hooked(nn.Module):
    """A model beside the hooks; ``functional_call`` puts the tensors of one client into the model."""

    def __init__(self, model: nn.Module, hooks: StepHooks, round: int) -> None:
        super().__init__()
        self.model, self._hooks, self._round = model, hooks, round

    def context(self, constants: Constants, batch: tuple[torch.Tensor, torch.Tensor] | None = None) -> TrainingContext:
        """Return what the hooks may read; anything else is an ``AttributeError``, and writing a ``TypeError``."""
        known = SimpleNamespace(round=self._round, scratch=MappingProxyType(dict(constants)), batch=batch)
        return cast(TrainingContext, known)


class _Forward(_Hooked):
    def forward(
        self, constants: Constants, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, Stacks]:
        logits = self.model(images)
        loss = self._hooks.loss(self.model, logits, labels, self.context(constants, (images, labels)))
        return loss, logits.detach().argmax(1), {name: each.detach() for name, each in self.model.named_buffers()}


class _Change(_Hooked):
    def forward(self, gradients: Stacks, constants: Constants) -> Stacks:
        parameters = dict(self.model.named_parameters())
        for name, gradient in gradients.items():
            parameters[name].grad = gradient
        self._hooks.before_step(self.model, self.context(constants))
        return {name: cast(torch.Tensor, parameters[name].grad) for name in gradients}


def _inside(tensors: Stacks) -> Stacks:
    return {f"model.{name}": tensor for name, tensor in tensors.items()}
