"""CReFF's client (Shang et al., IJCAI 2022, arXiv 2204.13399): local SGD, after gradients of a classifier by class."""

import torch
from torch import nn
from torch.nn import functional as F

from clients.local_sgd import LocalSGD
from datasets.examples import EVALUATION_BATCH, Examples
from fedsim.core.errors import UserError
from fedsim.core.seeding import torch_generator
from fedsim.heads import RetrainedHeads, retrained_heads
from fedsim.messages.arrays import to_record
from fedsim.methods.interfaces import PLAIN, ClientContext, TrainingContext
from fedsim.methods.training import LocalTraining
from fedsim.models.classifier import features_seen
from fedsim.models.restored import undisturbed

GRADIENTS = "class_gradients"
TRAINED = "trained"


class CReFF(LocalSGD):
    """Before it trains as in FedAvg, computes the gradients of the re-trained classifier on features of each class.

    The features are those of the network as it was sent, in evaluation mode, of up to ``images`` images of the class.
    The gradient is the mean of ``repeats`` draws of these images, each augmented as for training; the official code
    augments them by one of six operations of its own (DSA). Training is local SGD, bit for bit.

    The model predicts with the re-trained classifier; the predictor ``trained`` is FedAvg's.

    Raises:
        UserError: If ``images`` or ``repeats`` is below 1.
    """

    def __init__(self, training: LocalTraining, images: int, repeats: int) -> None:
        super().__init__(training)
        for name, count in (("images", images), ("repeats", repeats)):
            if count < 1:
                raise UserError(f"strategy.{name}={count} is not possible: choose a whole number of at least 1.")
        self.images, self.repeats = images, repeats

    def begin(self, model: nn.Module, context: TrainingContext) -> None:
        """Add the gradients to the reply."""
        # A generator of its own, so that the batches of the training are those of FedAvg.
        generator = torch_generator(context.generator.initial_seed(), GRADIENTS)
        with undisturbed(model):
            gradients = self._gradients(model.eval(), context.data, generator)
        context.reply[GRADIENTS] = to_record(gradients)

    def _gradients(self, model: nn.Module, data: Examples, generator: torch.Generator) -> dict[str, torch.Tensor]:
        heads, labels = _heads_of(model), data.labels.cpu()
        held = labels.unique().tolist()
        sums: dict[str, torch.Tensor] = {}
        for _ in range(self.repeats):
            of_class = [(labels == label).nonzero().flatten() for label in held]
            drawn = [all_[torch.randperm(len(all_), generator=generator)[: self.images]] for all_ in of_class]
            features = _features(model, heads, data, torch.cat(drawn), generator).split([len(each) for each in drawn])
            for label, own in zip(held, features, strict=True):
                for kind, gradient in _gradient(heads.retrained, own, label).items():
                    name = f"{label}/{kind}"
                    sums[name] = sums[name] + gradient if name in sums else gradient
        return {name: total / self.repeats for name, total in sums.items()}

    def predict(self, model: nn.Module, images: torch.Tensor, context: ClientContext) -> dict[str, torch.Tensor]:
        """Return the logits of both classifiers, from one pass through the network."""
        heads = _heads_of(model)
        with features_seen(heads.trained) as seen:
            logits = model(images)
        return {PLAIN: heads.retrained(seen.pop()), TRAINED: logits}


def _features(
    model: nn.Module, heads: RetrainedHeads, data: Examples, chosen: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    with features_seen(heads.trained) as seen:
        for part in chosen.split(EVALUATION_BATCH):
            model(data.batch(part.to(data.labels.device), generator)[0])
    return torch.cat(seen)


def _gradient(classifier: nn.Linear, features: torch.Tensor, label: int) -> dict[str, torch.Tensor]:
    """Return the gradients of the classifier's cross entropy, a mean over features that all have this label."""
    weight, bias = (each.detach().requires_grad_() for each in (classifier.weight, classifier.bias))
    with torch.enable_grad():
        loss = F.cross_entropy(F.linear(features, weight, bias), torch.full_like(features[:, 0], label).long())
    return dict(zip(("weight", "bias"), torch.autograd.grad(loss, (weight, bias)), strict=True))


def _heads_of(model: nn.Module) -> RetrainedHeads:
    heads = retrained_heads(model)
    assert heads is not None  # else the server strategy has refused the model
    return heads
