"""What every test-time adaptation has in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.config.binding import instantiate
from fedsim.core.errors import UserError

Batches = Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor]]]
"""Asked for only where an adaptation needs them: images the model was trained on, and their labels."""


class Adaptation(ABC):
    """Changes what ``model(images)`` computes for as long as a test set is evaluated."""

    batch_size: int
    """The most images that it adapts to at once"""

    @abstractmethod
    def check(self, model: nn.Module) -> None:
        """Errors: ``UserError`` if the model has nothing that could be adapted."""

    @abstractmethod
    def adapting(self, model: nn.Module, source: Batches) -> AbstractContextManager[None]:
        """In which the model is evaluated; behind the block it is what it was, parameters and buffers included."""


def no_adaptation() -> None:
    """``tta=none``: the model is evaluated as it is, and nothing else."""


def adaptation_of(options: Mapping[str, Any]) -> Adaptation | None:
    """What the group ``tta`` names; ``None`` for none.

    Errors: ``UserError`` for a wrong option.
    """
    adaptation: Adaptation | None = instantiate("tta", options)
    return adaptation


def check_batch_size(batch_size: int) -> None:
    """Errors: ``UserError`` for a batch that has no statistics."""
    if batch_size < 2:
        raise UserError(f"tta.batch_size={batch_size} is not possible: choose a whole number of at least 2.")


def check_running_statistics(model: nn.Module, name: str) -> None:
    """Errors: ``UserError`` if no layer of the model has running statistics that a batch's could take the place of."""
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    if not any(layer.track_running_stats for layer in layers):
        raise UserError(
            f"tta={name} is about BatchNorm's running statistics, and this network has none: "
            "choose norm=bn without norm.statistics=none and a model with BatchNorm, such as model=cnn_small, "
            "or another tta."
        )


def main_logits(answer: torch.Tensor) -> torch.Tensor:
    """(N, classes): of what several predictors answer, (N, predictors, classes), the first one's."""
    return answer if answer.dim() == 2 else answer[:, 0]


@contextmanager
def forward_by(model: nn.Module, forward: Callable[[torch.Tensor], torch.Tensor], batch_size: int) -> Iterator[None]:
    """Lets ``forward`` answer for ``model(images)``, on batches of at most ``batch_size``.

    Every n-th image is in one batch, so that the images of a set that is sorted by class are mixed. The model itself
    stays the object that is evaluated, whatever a method's evaluation asks of it.
    """

    def in_batches(images: torch.Tensor) -> torch.Tensor:
        parts = -(-len(images) // batch_size)
        answers = [forward(images[first::parts]) for first in range(parts)]
        logits = torch.empty((len(images), *answers[0].shape[1:]), dtype=answers[0].dtype, device=answers[0].device)
        for first, answer in enumerate(answers):
            logits[first::parts] = answer
        return logits

    model.forward = in_batches
    try:
        yield
    finally:
        del model.forward  # the class's own is found again
