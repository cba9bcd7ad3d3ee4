"""FRAug's client (Chen et al., ICCV 2023, arXiv 2205.14900): the classifier is also trained on generated features."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from flwr.app import ArrayRecord
from torch import nn
from torch.nn import functional as F

from clients.feature_distances import DISTANCES, OF_SETS, TRANSFORM_LOSSES
from clients.local_sgd import LocalSGD
from fedsim.core.errors import UserError
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.methods.interfaces import TrainingContext
from fedsim.methods.training import LocalTraining
from fedsim.models.classifier import classifier_of, features_seen
from fedsim.models.feature_networks import FeatureGenerator, FeatureTransform, latent_size
from fedsim.models.restored import in_evaluation, parameters_fixed

GENERATOR = "generator"
"""The record of the generator in a message and in a reply; in the client state the part that does not travel."""
TRANSFORM, MEANS, MOMENTUM = "transform", "class means", "momentum"
"""The records of the client state with the client's transformation, its class means and its optimizers' momentum."""
BUFFER = "momentum_buffer"
"""SGD's name of the momentum of a parameter."""
AUGMENTATION = "augmentation"
NOISES, LABELS, SCHEDULES = ("uniform", "normal"), ("both", "balanced", "batch"), ("exponential", "half", "hyperbolic")
Tensors = dict[str, torch.Tensor]


@dataclass
class Augmentation:
    """What one client generates features with in one round."""

    classifier: nn.Linear
    generator: FeatureGenerator
    transform: FeatureTransform
    means: torch.Tensor
    """The mean features of each class (classes, features), zeros for a class that was never seen."""
    share: float
    """:math:`\\rho`, the share of what is generated."""
    optimizers: dict[str, tuple[nn.Module, torch.optim.Optimizer]] = field(default_factory=dict)
    """The optimizer of each network, by the name of the network."""
    seen: list[torch.Tensor] = field(default_factory=list)
    """The inputs that the classifier was called with."""
    labels: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    """The balanced labels (N,) of the current batch."""

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, classes) of features (N, features)."""
        logits: torch.Tensor = self.classifier(features)
        self.seen.clear()
        return logits

    def move_means(self, features: torch.Tensor, labels: torch.Tensor, momentum: float) -> None:
        """Move the means of the classes in a batch towards that of the batch, by this share of the way."""
        members = F.one_hot(labels, len(self.means)).to(features)
        counts = members.sum(0)[:, None]
        moved = self.means + momentum * (members.T @ features / counts.clamp(min=1) - self.means)
        self.means = torch.where(counts > 0, moved, self.means)


class FRAug(LocalSGD):
    r"""Makes three steps for each batch (x, y): of the model, of the generator G and of the transformation T.

    With features f of x in front of the classifier h, class means :math:`\mu` of such features, noise z and labels
    :math:`\bar y` that go through the classes in turn, the model minimizes

    .. math:: (1 - s) \, \mathrm{CE}(h(f), y) + \frac{s}{2} \big( \mathrm{CE}(h(\tilde f), y)
              + \mathrm{CE}(h(\tilde \mu), \bar y) \big), \qquad
              \tilde f = T(G(z, y), f, y), \quad \tilde \mu = T(G(z, \bar y), \mu_{\bar y}, \bar y)

    where :math:`s = \min(\rho, 1/2)`; the generated features have no gradient, so that the classifier alone learns from
    them. With ``interpolate`` they are :math:`\rho \tilde f + (1 - \rho) f`, and likewise for :math:`\mu`. In round r
    of R, from 0, :math:`\rho = \exp(\gamma (r - R))`. Then, through the fixed model in evaluation mode, G minimizes

    .. math:: \mathrm{CE}(h(G(z, \bar y)), \bar y) - \lambda_G \, d_G(G(z, \bar y), f)

    (with a distance of rows :math:`\mu_{\bar y}` instead of f), and T the mean over :math:`(f, y)` and
    :math:`(\mu_{\bar y}, \bar y)` of :math:`-H(h(T)) + \lambda_T \, d_T(T, \cdot)`, H being the entropy of the
    prediction. Both have SGD of a constant learning rate with the setting ``momentum``. T, :math:`\mu` and
    what the server did not send of G stay in the client's state.

    Two steps for a batch of a single image are left out, which has no variance: those of G and T.

    Args:
        training: The settings of local training.
        latent: Numbers of z, and of the hidden layer of T; ``None`` for half of the number of features.
        noise: ``"uniform"``, from 0 to 1, or ``"normal"``.
        lr_generator: Learning rate of G.
        lr_transform: Learning rate of T.
        generator_distance: :math:`d_G`: ``"l1"``, ``"l2"`` (of rows), ``"mean_cov"``, ``"mmd"`` (of sets).
        transform_distance: :math:`d_T`, likewise.
        lam_generator: :math:`\lambda_G`.
        lam_transform: :math:`\lambda_T`.
        transform_loss: ``"entropy"``, or ``"non_saturating"`` in the place of :math:`-H`.
        labels: ``"both"``, or only ``"balanced"`` or the ``"batch"``'s labels; then there is one term and not the half
            of two.
        schedule: ``"exponential"``, or ``"half"`` for :math:`\rho = 1/2`, or ``"hyperbolic"`` for
            :math:`\rho = 1 - 1 / (\gamma r + 1)`.
        gamma: :math:`\gamma`.
        interpolate: Whether generated features are mixed with what they are made near to.
        mean_momentum: How far :math:`\mu` moves towards the mean of a batch.
        local_steps: Number of batches of a round, of as many passes as that takes; ``None`` for ``local_epochs``.
        keep_momentum: Whether the momentum of ``optimizer=sgd`` is kept between rounds, that of the model included.

    Raises:
        UserError: If an option is unknown or out of its range.
    """

    def __init__(
        self,
        training: LocalTraining,
        *,
        latent: int | None = None,
        noise: str = "uniform",
        lr_generator: float = 0.05,
        lr_transform: float = 0.025,
        generator_distance: str = "l2",
        transform_distance: str = "mmd",
        lam_generator: float = 1.0,
        lam_transform: float = 1.0,
        transform_loss: str = "entropy",
        labels: str = "both",
        schedule: str = "exponential",
        gamma: float = 0.002,
        interpolate: bool = False,
        mean_momentum: float = 0.3,
        local_steps: int | None = None,
        keep_momentum: bool = True,
    ) -> None:
        super().__init__(training)
        _refuse_unknown("noise", noise, NOISES)
        _refuse_unknown("generator_distance", generator_distance, DISTANCES)
        _refuse_unknown("transform_distance", transform_distance, DISTANCES)
        _refuse_unknown("transform_loss", transform_loss, TRANSFORM_LOSSES)
        _refuse_unknown("labels", labels, LABELS)
        _refuse_unknown("schedule", schedule, SCHEDULES)
        for key, rate in (("lr_generator", lr_generator), ("lr_transform", lr_transform)):
            if not 0 < rate < math.inf:
                raise UserError(f"strategy.{key}={rate} is not possible: choose a number above 0.")
        for key, weight in (("lam_generator", lam_generator), ("lam_transform", lam_transform), ("gamma", gamma)):
            if not 0 <= weight < math.inf:
                raise UserError(f"strategy.{key}={weight} is not possible: choose a number of at least 0.")
        if not 0 < mean_momentum <= 1:
            raise UserError(
                f"strategy.mean_momentum={mean_momentum} is not possible: choose a number above 0 and at most 1."
            )
        if local_steps is not None and local_steps < 1:
            raise UserError(
                f"strategy.local_steps={local_steps} is not possible: choose a whole number of at least 1, or null."
            )
        self.latent, self.noise = latent, noise
        self.lr_generator, self.lr_transform = lr_generator, lr_transform
        self.generator_distance, self.transform_distance = generator_distance, transform_distance
        self.lam_generator, self.lam_transform = lam_generator, lam_transform
        self.transform_loss = TRANSFORM_LOSSES[transform_loss]
        self.labels, self.interpolate, self.mean_momentum = labels, interpolate, mean_momentum
        self.schedule, self.gamma = schedule, gamma
        self.local_steps, self.keep_momentum = local_steps, keep_momentum

    def share_in(self, server_round: int) -> float:
        r"""Return :math:`\rho` in a round, the first of which is 1 here and 0 in the formula."""
        done = server_round - 1
        if self.schedule == "half":
            return 0.5
        if self.schedule == "hyperbolic":
            return 1 - 1 / (self.gamma * done + 1)
        return math.exp(self.gamma * (done - self.training.schedule.rounds))

    def epochs(self) -> int:
        """Return the number of passes; all batches are in one if their number is an option."""
        return super().epochs() if self.local_steps is None else 1

    def batches(self, examples: int, generator: torch.Generator) -> list[torch.Tensor]:
        """Return the batches of a pass, or ``local_steps`` ones out of as many passes as that takes."""
        drawn = super().batches(examples, generator)
        if self.local_steps is None:
            return drawn
        while len(drawn) < self.local_steps:
            drawn += super().batches(examples, generator)
        return drawn[: self.local_steps]

    def batches_of_pass(self, examples: int) -> int:
        """Return how many batches ``batches`` makes."""
        return super().batches_of_pass(examples) if self.local_steps is None else self.local_steps

    def begin(self, model: nn.Module, context: TrainingContext) -> None:
        """Build the two networks and load what was sent and kept of them."""
        classifier = classifier_of(model, "strategy=fraug")[1]
        features, classes, weight = classifier.in_features, classifier.out_features, classifier.weight
        latent = latent_size(features, self.latent)
        generator = FeatureGenerator(features, latent, classes).to(weight)
        sent = to_tensors(context.sent.array_records[GENERATOR])
        generator.load_state_dict({**generator.state_dict(), **_kept(context, GENERATOR), **sent})
        transform = FeatureTransform(features, latent, classes).to(weight)
        transform.load_state_dict({**transform.state_dict(), **_kept(context, TRANSFORM)})
        means = _kept(context, MEANS).get(MEANS, weight.new_zeros(classes, features)).to(weight)
        augmentation = Augmentation(classifier, generator.eval(), transform.eval(), means, self.share_in(context.round))
        context.scratch[AUGMENTATION] = augmentation
        rates = ((GENERATOR, generator, self.lr_generator), (TRANSFORM, transform, self.lr_transform))
        for name, network, lr in rates:
            optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=self.training.momentum)
            augmentation.optimizers[name] = network, optimizer
            self._restore_momentum(name, network, optimizer, context)

    def optimizer(self, model: nn.Module, context: TrainingContext) -> torch.optim.Optimizer:
        """Return the model's optimizer with the momentum of the client's last round."""
        optimizer = super().optimizer(model, context)
        context.scratch[AUGMENTATION].optimizers["model"] = model, optimizer
        self._restore_momentum("model", model, optimizer, context)
        return optimizer

    def passes(self, model: nn.Module, context: TrainingContext) -> dict[str, float]:
        """Train while the features that the classifier is given are seen."""
        augmentation = context.scratch[AUGMENTATION]
        with features_seen(augmentation.classifier) as augmentation.seen:
            return self.fit(model, context, self.epochs())

    def loss(
        self, model: nn.Module, logits: torch.Tensor, labels: torch.Tensor, context: TrainingContext
    ) -> torch.Tensor:
        """Return the cross entropy of the batch and of generated features, weighted."""
        augmentation: Augmentation = context.scratch[AUGMENTATION]
        features = augmentation.seen.pop().detach()
        real = super().loss(model, logits, labels, context)
        augmentation.move_means(features, labels, self.mean_momentum)
        first = ((context.round - 1) * context.steps + context.step) * len(labels)
        classes = len(augmentation.means)
        augmentation.labels = (torch.arange(len(labels), device=labels.device) + first) % classes
        generated = [
            F.cross_entropy(augmentation.classify(made), each)
            for made, each in self._augmented(augmentation, features, labels)
        ]
        share = min(0.5, augmentation.share)
        return share * torch.stack(generated).mean() + (1 - share) * real

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer, context: TrainingContext) -> None:
        """Train the generator and the transformation."""
        augmentation: Augmentation = context.scratch[AUGMENTATION]
        assert context.batch is not None
        images, labels = context.batch
        if len(labels) < 2:
            return
        with in_evaluation(model), parameters_fixed(model.parameters()):
            features = augmentation.means[:0]
            if self.labels != "balanced" or self.generator_distance in OF_SETS:
                model(images)
                features = augmentation.seen.pop()
            self._train_generator(augmentation, features)
            self._train_transform(augmentation, features, labels)

    def end(self, model: nn.Module, context: TrainingContext) -> None:
        """Reply with the part of the generator that was sent, and keep everything else."""
        augmentation: Augmentation = context.scratch[AUGMENTATION]
        travelling, trained = context.sent.array_records[GENERATOR], augmentation.generator.state_dict()
        context.reply[GENERATOR] = to_record({name: trained[name] for name in travelling})
        context.state[GENERATOR] = to_record({name: trained[name] for name in trained if name not in travelling})
        context.state[TRANSFORM] = to_record(augmentation.transform.state_dict())
        context.state[MEANS] = to_record({MEANS: augmentation.means})
        if self.keep_momentum:
            context.state[MOMENTUM] = to_record(
                {
                    f"{network}/{name}": optimizer.state[parameter][BUFFER]
                    for network, (module, optimizer) in augmentation.optimizers.items()
                    for name, parameter in module.named_parameters()
                    if optimizer.state[parameter].get(BUFFER) is not None
                }
            )

    def _restore_momentum(
        self, network: str, module: nn.Module, optimizer: torch.optim.Optimizer, context: TrainingContext
    ) -> None:
        kept = _kept(context, MOMENTUM) if self.keep_momentum else {}
        for name, parameter in module.named_parameters():
            if f"{network}/{name}" in kept:
                optimizer.state[parameter][BUFFER] = kept[f"{network}/{name}"].to(parameter, copy=True)

    @torch.no_grad()
    def _augmented(
        self, augmentation: Augmentation, features: torch.Tensor, labels: torch.Tensor
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return generated features and their labels, near to the class means and near to the features of the batch."""
        augmented = []
        for reference, each in self._references(augmentation, features, labels):
            made = augmentation.transform(self._generated(augmentation.generator, each), reference, each)
            augmented.append((reference.lerp(made, augmentation.share) if self.interpolate else made, each))
        return augmented

    def _train_generator(self, augmentation: Augmentation, features: torch.Tensor) -> None:
        generator, labels = augmentation.generator.train(), augmentation.labels
        optimizer = augmentation.optimizers[GENERATOR][1]
        made = self._generated(generator, labels)
        compared = features if self.generator_distance in OF_SETS else augmentation.means[labels]
        far = DISTANCES[self.generator_distance](made, compared)
        loss = F.cross_entropy(augmentation.classify(made), labels) - self.lam_generator * far
        _step(optimizer, loss)
        generator.eval()

    def _train_transform(self, augmentation: Augmentation, features: torch.Tensor, labels: torch.Tensor) -> None:
        transform = augmentation.transform.train()
        losses = []
        for reference, each in self._references(augmentation, features, labels):
            with torch.no_grad():
                made = self._generated(augmentation.generator, each)
            moved = transform(made, reference, each)
            certain = self.transform_loss(augmentation.classify(moved), each)
            losses.append(certain + self.lam_transform * DISTANCES[self.transform_distance](moved, reference))
        _step(augmentation.optimizers[TRANSFORM][1], torch.stack(losses).mean())
        transform.eval()

    def _references(
        self, augmentation: Augmentation, features: torch.Tensor, labels: torch.Tensor
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return pairs of reference features (N, features) and labels (N,): of balanced labels, then of the batch."""
        balanced = augmentation.means[augmentation.labels], augmentation.labels
        return {"both": [balanced, (features, labels)], "balanced": [balanced], "batch": [(features, labels)]}[
            self.labels
        ]

    def _generated(self, generator: FeatureGenerator, labels: torch.Tensor) -> torch.Tensor:
        """Return generated features (N, features) of new noise, drawn on the CPU, the same whatever device trains."""
        draw = torch.rand if self.noise == "uniform" else torch.randn
        made: torch.Tensor = generator(draw(len(labels), generator.latent).to(next(generator.parameters())), labels)
        return made


def _step(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def _kept(context: TrainingContext, record: str) -> Tensors:
    """Return the tensors of a record of the client state; empty in the first round."""
    kept = context.state.get(record)
    return to_tensors(kept) if isinstance(kept, ArrayRecord) else {}


def _refuse_unknown(key: str, value: str, known: Collection[str] | Mapping[str, object]) -> None:
    if value not in known:
        *others, last = known
        raise UserError(f"strategy.{key}={value} is not known: choose {', '.join(others)} or {last}.")
