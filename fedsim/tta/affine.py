"""Test-time training of scales and shifts, the base of Tent and CAFA."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from fedsim.core.errors import UserError
from fedsim.norms import norm_layers
from fedsim.norms.statistics import batch_statistics
from fedsim.tta.adaptation import Adaptation, Batches, answered_by, check_batch_size

Loss = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""``images -> (output of the model, loss)``."""


class TrainedAffine(Adaptation):
    """Trains the scales and shifts of the norm layers on one test batch after the other, with Adam.

    BatchNorm normalizes by the batch meanwhile. The logits of a batch are those of the forward pass for its last step,
    so that they depend on the earlier batches and on the batch's own steps except the last.

    Raises:
        UserError: If an option is out of its range.
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
        """Return the loss function; called before the model is adapted.

        Args:
            model: The network.
            plain: The original ``forward`` of the model.
            source: Returns batches on which the model was trained.
        """

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
            with batch_statistics(model), answered_by(model, adapt_and_answer):
                yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(trained, kept, strict=True):
                    parameter.copy_(value)
                    parameter.grad = None
            for parameter, flag in wanted:
                parameter.requires_grad_(flag)


def affine_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of all norm layers, found by type, each once."""
    found = {
        id(parameter): parameter
        for layer in model.modules()
        if isinstance(layer, norm_layers())
        for parameter in layer.parameters()
    }
    return list(found.values())
