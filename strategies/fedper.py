"""FedPer (Arivazhagan et al. 2019, arXiv 1912.00818): every client keeps its own classifier."""

from typing import ClassVar

from torch import nn

from fedsim.core.errors import UserError
from fedsim.methods.training import ServerTraining
from fedsim.models.classifier import classifier_of

from .fedavg import FedAvg


class FedPer(FedAvg):
    """FedAvg over everything but the classifier, the linear layer that makes the logits, which never leaves a client.

    The paper allows several personalization layers; here the classifier is the only one. All clients start with the
    same classifier and train both parts together.

    Raises:
        UserError: If the model has no such layer, or it is frozen: nothing would be personal.
    """

    name: ClassVar[str] = "fedper"

    def __init__(self, model: nn.Module, training: ServerTraining | None = None) -> None:
        super().__init__(model, training)
        path, classifier = classifier_of(model, f"strategy={self.name}")
        if not any(parameter.requires_grad for parameter in classifier.parameters()):
            raise UserError(
                f"strategy={self.name} needs a classifier that is trained, and that of this network is frozen: "
                "choose head=linear and train_only=null, or another strategy."
            )
        # Not declared by type, as in other methods: linear layers before the classifier, such as cnn6's, are shared.
        self.keep_on_clients(classifier.state_dict(prefix=f"{path}." if path else ""))
