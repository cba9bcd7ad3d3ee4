"""FedWon's client: local SGD with adaptive gradient clipping."""

from torch import nn

from clients.adaptive_clipping import all_but_last_linear, clip_adaptively, transposed_weights
from clients.local_sgd import LocalSGD
from fedsim.errors import UserError
from fedsim.method import LocalTraining


class ClippedSGD(LocalSGD):
    """Clips every gradient before the step, unit by unit and without the last layer; ``clip=None`` switches it off.

    FedWon reports a clip of 0.1 at batch size 32 and none at 2.
    """

    def __init__(self, training: LocalTraining, clip: float | None) -> None:
        super().__init__(training)
        if clip is not None and not clip > 0:
            raise UserError(f"strategy.clip={clip} is not possible: choose a number above 0, or null for no clipping.")
        self.clip = clip

    def before_step(self, model: nn.Module) -> None:
        if self.clip is not None:
            clip_adaptively(all_but_last_linear(model), self.clip, transposed_weights(model))
