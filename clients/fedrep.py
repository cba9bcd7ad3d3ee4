"""FedRep's client (Collins et al., ICML 2021, arXiv 2102.07078): trains first its own head, then the body."""

from torch import nn

from clients.local_sgd import LocalSGD
from fedsim.core.errors import UserError
from fedsim.methods.interfaces import TrainingContext
from fedsim.methods.training import LocalTraining
from fedsim.models.classifier import classifier_of
from fedsim.models.restored import buffers_restored, parameters_fixed


class FedRep(LocalSGD):
    """Trains the classifier for ``head_epochs`` with the body fixed, then the body for ``local_epochs`` vice versa.

    This is Algorithm 1; each part has its own optimizer, and the metrics are those of the second part.

    All layers are in training mode in both parts, as in the official code, whose networks have no running statistics.
    Here the passes for the head restore the running statistics, which belong to the body. In the official code every
    client trains its head once more before the last test; here a client is evaluated with the head of the last round in
    which it trained.

    Raises:
        UserError: If ``head_epochs`` is below 1.
    """

    def __init__(self, training: LocalTraining, head_epochs: int) -> None:
        super().__init__(training)
        if head_epochs < 1:
            raise UserError(f"strategy.head_epochs={head_epochs} is not possible: choose a whole number of at least 1.")
        self.head_epochs = head_epochs

    def epochs(self) -> int:
        """Return the number of passes for the head and for the body together."""
        return self.head_epochs + self.training.local_epochs

    def passes(self, model: nn.Module, context: TrainingContext) -> dict[str, float]:
        """Train the head, then the body; return the metrics of the body's passes."""
        head = list(classifier_of(model, "strategy=fedrep")[1].parameters())
        body = [parameter for parameter in model.parameters() if all(parameter is not each for each in head)]
        with parameters_fixed(body), buffers_restored(model):
            self.fit(model, context, self.head_epochs)
        with parameters_fixed(head):
            return self.fit(model, context, self.training.local_epochs)
