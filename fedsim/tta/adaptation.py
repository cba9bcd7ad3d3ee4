"""The interface and common parts of all test-time adaptations."""

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
"""Returns batches of images on which the model was trained, with labels; called only by adaptations that need them."""


class Adaptation(ABC):
    """Changes the computation of ``model(images)`` during the evaluation of a test set."""

    batch_size: int
    """The largest number of images in a batch of the adaptation, which the caller makes."""

    @abstractmethod
    def check(self, model: nn.Module) -> None:
        """Check that the model has layers that can be adapted.

        Raises:
            UserError: If it has none.
        """

    @abstractmethod
    def adapting(self, model: nn.Module, source: Batches) -> AbstractContextManager[None]:
        """Adapt the model to the images of its forward passes inside the block, and restore it afterwards.

        Each pass is one batch, of at most ``batch_size`` images. Parameters and buffers are restored, too.

        Args:
            model: The network.
            source: Returns batches on which the model was trained.
        """


def no_adaptation() -> None:
    """Skip adaptation (``tta=none``): the model is only evaluated as it is."""


def adaptation_of(options: Mapping[str, Any]) -> Adaptation | None:
    """Return the adaptation that the group ``tta`` names; ``None`` for ``tta=none``.

    Raises:
        UserError: If an option is wrong.
    """
    adaptation: Adaptation | None = instantiate("tta", options)
    return adaptation


def check_batch_size(batch_size: int) -> None:
    """Check the option ``tta.batch_size``.

    Raises:
        UserError: If it is below 2, for which a batch has no statistics.
    """
    if batch_size < 2:
        raise UserError(f"tta.batch_size={batch_size} is not possible: choose a whole number of at least 2.")


def check_running_statistics(model: nn.Module, name: str) -> None:
    """Check that a BatchNorm of the model has running statistics, which an adaptation can replace.

    Raises:
        UserError: If none has.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    if not any(layer.track_running_stats for layer in layers):
        raise UserError(
            f"tta={name} is about BatchNorm's running statistics, and this network has none: "
            "choose norm=bn without norm.statistics=none and a model with BatchNorm, such as model=cnn_small, "
            "or another tta."
        )


def main_logits(answer: torch.Tensor) -> torch.Tensor:
    """Return the logits (N, classes); for several predictors, (N, predictors, classes), those of the first one."""
    return answer if answer.dim() == 2 else answer[:, 0]


@contextmanager
def answered_by(model: nn.Module, forward: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Replace ``model(images)`` by ``forward`` inside the block.

    The model stays the same object, since a method's evaluation may access its layers.
    """
    model.forward = forward
    try:
        yield
    finally:
        del model.forward  # restores that of the class
