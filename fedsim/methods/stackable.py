"""Local trainers of which many clients can be trained at once, with a stack of models in the place of one."""

from typing import ClassVar, Protocol, TypeGuard

import torch
from torch import nn

from fedsim.methods.interfaces import LocalTrainer, TrainingContext
from fedsim.methods.training import LocalTraining


class StackableTrainer(LocalTrainer, Protocol):
    """A local trainer whose class says ``stackable = True`` in its own body; a subclass has to say it again.

    Its training is ``start``, ``local_epochs`` passes with a new optimizer of ``training``, and ``finish``. Each step
    is a function of parameters, buffers, batch and constants: of the context ``loss`` reads ``round``, ``batch`` and
    ``scratch``, and ``before_step`` ``round`` and ``scratch``, which holds tensors in dictionaries and tuples, of the
    same names and shapes for all clients. They write gradients alone, ask no tensor for a number, and look for
    parameters by ``named_parameters`` or ``parameters``. ``start`` and ``finish`` are called client by client and may
    do anything but draw from torch's global generators in both.
    """

    stackable: ClassVar[bool]
    training: LocalTraining

    def start(self, model: nn.Module, context: TrainingContext) -> None:
        """Prepare for the first step."""

    def finish(self, model: nn.Module, context: TrainingContext, metrics: dict[str, float]) -> dict[str, float]:
        """Write the results after the last step; return the metrics of the reply from those of the passes."""

    def batches(self, examples: int, generator: torch.Generator) -> list[torch.Tensor]:
        """Return the indices of one pass, divided into batches."""

    def loss(
        self, model: nn.Module, logits: torch.Tensor, labels: torch.Tensor, context: TrainingContext
    ) -> torch.Tensor:
        """Return the loss of a batch: logits (N, classes), labels (N,)."""

    def before_step(self, model: nn.Module, context: TrainingContext) -> None:
        """Change gradients (``parameter.grad``) between backward and the optimizer's step."""


def is_stackable(trainer: LocalTrainer) -> TypeGuard[StackableTrainer]:
    """Return whether the trainer's own class, and not only one that it inherits from, says so."""
    return bool(vars(type(trainer)).get("stackable", False))
