"""FedWon's client: local SGD with adaptive gradient clipping."""

from torch import nn

from clients.adaptive_clipping import all_but_last_linear, clip_adaptively, transposed_weights
from clients.local_sgd import LocalSGD
from fedsim.core.errors import UserError
from fedsim.methods.interfaces import TrainingContext
from fedsim.methods.training import LocalTraining


class ClippedSGD(LocalSGD):
    """Clips every gradient before the step, unit by unit; ``clip=None`` switches it off.

    FedWon reports a clip of 0.1 at batch size 32 and none at 2. Brock et al. do not clip the classifier
    (``clip_classifier=False``). In a network without normalization it may diverge then: features are not bounded, and
    the steps of the classifier grow with them. The FedWon paper does not say whether it clips the classifier.

    Raises:
        UserError: If ``clip`` is not above 0.
    """

    stackable = True

    def __init__(self, training: LocalTraining, clip: float | None, clip_classifier: bool = False) -> None:
        super().__init__(training)
        if clip is not None and not clip > 0:
            raise UserError(f"strategy.clip={clip} is not possible: choose a number above 0, or null for no clipping.")
        self.clip = clip
        self.clip_classifier = clip_classifier

    def before_step(self, model: nn.Module, context: TrainingContext) -> None:
        """Clip the gradients in place."""
        if self.clip is not None:
            clipped = list(model.parameters()) if self.clip_classifier else all_but_last_linear(model)
            clip_adaptively(clipped, self.clip, transposed_weights(model))
