"""FedRep's client (Collins et al., ICML 2021, arXiv 2102.07078): first the client's own head, then the body."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn

from clients.adaptive_clipping import all_but_last_linear
from clients.local_sgd import LocalSGD
from datasets.examples import Examples
from fedsim.errors import UserError
from fedsim.method import LocalTraining, Turn
from fedsim.models.classifier import classifier_of


class FedRep(LocalSGD):
    """Trains the classifier with the body fixed for ``head_epochs``, then the body with the classifier fixed for
    ``local_epochs`` (Algorithm 1), each with an optimizer of its own. The metrics are those of the second part.

    Layers work as in training all the time. So they do in the official code, whose networks have no running statistics;
    here the passes for the head leave those as they were, since they belong to the body and would follow the client
    much further with so many more passes. The official code has every client train its head once more before the last
    test; here a client is evaluated with the head of its last turn.
    """

    def __init__(self, training: LocalTraining, head_epochs: int) -> None:
        super().__init__(training)
        if head_epochs < 1:
            raise UserError(f"strategy.head_epochs={head_epochs} is not possible: choose a whole number of at least 1.")
        self.head_epochs = head_epochs

    def train(self, model: nn.Module, data: Examples, turn: Turn) -> dict[str, float]:
        head = list(classifier_of(model, "strategy=fedrep")[1].parameters())
        body = all_but_last_linear(model)
        with _fixed(body), _buffers_restored(model):
            self.fit(model, data, turn, self.head_epochs)
        with _fixed(head):
            return self.fit(model, data, turn, self.training.local_epochs)


@contextmanager
def _fixed(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """No gradient is computed for these, which also saves the pass back through them."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def _buffers_restored(model: nn.Module) -> Iterator[None]:
    """Running statistics, of whatever layer, are after the block what they were before."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])
