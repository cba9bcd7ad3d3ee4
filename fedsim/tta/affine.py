"""Test-time training of scales and shifts: what Tent and CAFA share."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from fedsim.core.errors import UserError
from fedsim.norms import NORM_LAYERS
from fedsim.norms.statistics import batch_statistics
from fedsim.tta.adaptation import Adaptation, Batches, check_batch_size, forward_by

Loss = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""images -> (what the model answers, what is minimized)"""


class TrainedAffine(Adaptation):
    """Trains the scales and shifts of the norm layers on each test batch in turn, with Adam.

    BatchNorm normalizes by the batch meanwhile. The logits of a batch are those of the forward pass from which its last
    step is made, so a batch is judged by what the batches before it, and its own steps but the last, have taught.
    """

    name: str

    def __init__(self, lr: float, steps: int, batch_size: int) -> None:
        if not lr > 0:
            raise UserError(f"tta.lr={lr} is not possible: choose a number above 0.")
        if steps < 1:
            raise UserError(f"tta.steps={steps} is not possible: choose a whole number of at least 1.")
        check_batch_size(batch_size)
        self.lr, self.steps, self.batch_size = lr, steps, batch_size

    def check(self, model: nn.Module) -> None:
        if not affine_parameters(model):
            raise UserError(
                f"tta={self.name} trains the scales and shifts of norm layers, and this network has none: "
                "choose another norm, or another tta."
            )

    @abstractmethod
    def loss(self, model: nn.Module, plain: Callable[[torch.Tensor], torch.Tensor], source: Batches) -> Loss:
        """What is minimized; called while the model is not yet adapted."""

    @contextmanager
    def adapting(self, model: nn.Module, source: Batches) -> Iterator[None]:
        plain = model.forward
        loss = self.loss(model, plain, source)
        trained = affine_parameters(model)
        kept = [parameter.detach().clone() for parameter in trained]
        wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        model.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
        optimizer = torch.optim.Adam(trained, lr=self.lr)

        def adapt_and_answer(images: torch.Tensor) -> torch.Tensor:
            for _ in range(self.steps):
                with torch.enable_grad():
                    logits, minimized = loss(images)
                    optimizer.zero_grad(set_to_none=True)
                    minimized.backward()
                optimizer.step()
            return logits.detach()

        try:
            with batch_statistics(model), forward_by(model, adapt_and_answer, self.batch_size):
                yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(trained, kept, strict=True):
                    parameter.copy_(value)
                    parameter.grad = None
            for parameter, flag in wanted:
                parameter.requires_grad_(flag)


def affine_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of all norm layers, by type."""
    found = {
        id(parameter): parameter
        for layer in model.modules()
        if isinstance(layer, NORM_LAYERS)
        for parameter in layer.parameters()
    }
    return list(found.values())
