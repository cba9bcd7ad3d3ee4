"""A trial before the first round: forward passes of the smallest batches that will occur in the run.

Without it, a network that fails on such a batch would end the run in the round that first draws the client that has
it. Only the sizes of the batches are those of the data; the images are noise. Each trial costs a forward pass of a few
images.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import nn

from datasets.examples import EVALUATION_BATCH, training_batches
from datasets.federation import Federation
from datasets.source import Part
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.methods.interfaces import ClientContext, LocalTrainer
from fedsim.models.first_pass import check_answer, reason_of
from fedsim.models.restored import undisturbed
from fedsim.norms.pixels import single_values_refused
from fedsim.norms.policy import NormPolicy
from fedsim.tta import adaptation_of

ENOUGH = 2
"""Number of images that is sufficient to try an evaluation: only a single image behaves differently."""


@dataclass(frozen=True)
class Batch:
    """A batch that will occur in the run."""

    size: int
    words: str
    """The beginning of a sentence about its client and purpose: ``client 3 trains on``."""
    remedy: str = "a split or data that give more images"
    """A change of settings that would make the batch larger."""


def try_smallest_batches(
    settings: Settings, federation: Federation, model: nn.Module, trainer: LocalTrainer, queried_share: float = 0.0
) -> bool:
    """Try the smallest batches of training, queries and evaluations; the model is not changed.

    Args:
        settings: The settings of the run.
        federation: The clients and domains with their numbers of images.
        model: The network.
        trainer: The local trainer.
        queried_share: The share of a client's training images that queries before training use; 0 for none.

    Returns:
        Whether, at evaluation, the result of an image depends on the other images of its batch.

    Raises:
        UserError: If a batch is too small for the network, with the name of its client or domain, or the network does
            not return one logit for each image and class in training.
    """
    trial = _Trial(settings, federation, model, trainer)
    refused = single_values_refused(model, trial.norm) if settings.batch_size == 1 else nullcontext()
    with refused:
        trial.run(trial.train, _trained(federation, settings.batch_size, settings.drop_last))
    if queried_share:
        trial.run(trial.train, _asked(federation, queried_share))
    if trial.policy.reestimates:
        trial.run(trial.estimate, _estimated(federation))
    trial.run(trial.evaluate, _evaluations(federation))
    if trial.adaptation is not None:
        trial.run(trial.adapt, _adaptations(federation, trial.adaptation.batch_size))
    return trial.depends_on_batch()


class _Trial:
    """Training, evaluation and adaptation on batches of noise, as in ``ClientHost`` and ``LocalSGD``."""

    def __init__(self, settings: Settings, federation: Federation, model: nn.Module, trainer: LocalTrainer) -> None:
        self.model, self.trainer = model, trainer
        self.name, self.norm = settings.model["name"], settings.norm["name"]
        self.num_classes, self.image_shape = federation.num_classes, federation.source.image_shape
        self.policy = NormPolicy.of(settings.norm, settings.rounds)
        self.adaptation = adaptation_of(settings.tta)

    def images(self, count: int, first: int = 0) -> torch.Tensor:
        """Return images (count, channels, height, width) from -1 to 1, from number ``first`` on of a fixed series."""
        generators = (torch.Generator().manual_seed(first + number) for number in range(count))
        return torch.stack([2 * torch.rand(self.image_shape, generator=generator) - 1 for generator in generators])

    def run(self, does: Callable[[int], None], batches: Iterable[Batch]) -> None:
        """Try ``does`` with the smallest of the batches.

        Raises:
            UserError: If it fails.
        """
        smallest = min(batches, key=lambda batch: batch.size, default=None)
        error = None if smallest is None else _failure(does, smallest.size)
        if smallest is None or error is None:
            return
        needed = next((n for n in (2, 3, 4, 8, 16, 32) if n > smallest.size and _failure(does, n) is None), None)
        images = f"{smallest.size} image{'s' if smallest.size > 1 else ''}"
        raise UserError(
            f"{smallest.words} a batch of {images}, and model={self.name} with norm={self.norm} "
            f"{'fails with it' if needed is None else f'needs {needed}'} ({reason_of(error)}): choose "
            f"{'' if needed is None else f'{smallest.remedy}, or '}another model."
        ) from error

    def train(self, count: int) -> None:
        with undisturbed(self.model), self.policy.training(self.model, round=1):
            check_answer(self.model.train()(self.images(count)), count, self.num_classes, self.name, " in training")

    def estimate(self, count: int) -> None:
        with undisturbed(self.model), self.policy.evaluating(self.model, lambda: [self.images(count)]):
            pass

    def evaluate(self, count: int) -> None:
        with undisturbed(self.model), self._evaluating():
            self._predict(min(count, ENOUGH))

    def adapt(self, count: int) -> None:
        assert self.adaptation is not None
        labels = torch.arange(2 * ENOUGH) % self.num_classes
        known = [(self.images(len(labels)), labels)]
        with undisturbed(self.model), self._evaluating(), self.adaptation.adapting(self.model, lambda: known):
            self._predict(min(count, ENOUGH))

    def _evaluating(self) -> AbstractContextManager[None]:
        return self.policy.evaluating(self.model.eval(), lambda: [self.images(2 * ENOUGH)])

    def _predict(self, count: int) -> None:
        self.model.eval()
        for own in (True, False):
            for logits in self.trainer.predict(self.model, self.images(count), ClientContext(own=own)).values():
                check_answer(logits, count, self.num_classes, self.name, "")

    def depends_on_batch(self) -> bool:
        """Return whether the output of any module for the first image changes if the second image is another one.

        The outputs of all modules are compared, since a branch may start with a weight of zero.
        """
        first = self._of_first_image(self.images(2))
        second = self._of_first_image(torch.cat([self.images(1), self.images(1, first=2)]))
        return any(not torch.equal(one, other) for one, other in zip(first, second, strict=True))

    def _of_first_image(self, pair: torch.Tensor) -> list[torch.Tensor]:
        """Return the outputs of all calls of all modules for the first of two images."""
        made: list[torch.Tensor] = []

        def note(_: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, torch.Tensor) and output.dim() and len(output) == len(pair):
                made.append(output[0].nan_to_num())  # also a copy; NaN would differ from itself

        hooks = [module.register_forward_hook(note) for module in self.model.modules()]
        try:
            with undisturbed(self.model), self._evaluating():
                self.model.eval()(pair)
        finally:
            for hook in hooks:
                hook.remove()
        return made


def _failure(does: Callable[[int], None], count: int) -> Exception | None:
    """Return the error that ``does`` raises with ``count`` images; ``None`` if it succeeds.

    Raises:
        UserError: If ``does`` raises one, which explains itself.
    """
    try:
        does(count)
    except UserError:
        raise
    except Exception as error:  # a network may raise anything
        return error
    return None


def _trained(federation: Federation, batch_size: int, drop_last: bool) -> Iterator[Batch]:
    for client, images in _images(federation, Part.TRAIN):
        sizes = [len(batch) for batch in training_batches(torch.arange(images), batch_size, drop_last=drop_last)]
        by_size = Batch(min(sizes), f"client {client} trains on")
        yield by_size if len(sizes) == 1 else replace(by_size, remedy="another batch_size")


def _asked(federation: Federation, share: float) -> Iterator[Batch]:
    """Yield, for each number of images of a client, the smallest batch of the share of images that queries use."""
    for client, images in _images(federation, Part.TRAIN):
        asked = max(1, round(share * images))
        yield Batch(_smallest(asked, EVALUATION_BATCH), f"client {client} is asked, before training, about")


def _estimated(federation: Federation) -> Iterator[Batch]:
    """Yield the smallest batches on which statistics are re-estimated: of test images for a domain left out."""
    sets = {f"for client {client}": images for client, images in _images(federation, Part.TRAIN)}
    sets |= {f"for the domain {name}": len(tests) for name, tests in federation.unseen_tests.items()}
    for whose, images in sets.items():
        yield Batch(_smallest(images, EVALUATION_BATCH), f"statistics are re-estimated, {whose}, on")


def _evaluated(federation: Federation) -> Iterator[tuple[str, int]]:
    """Yield a description and the number of images of every test and validation set."""
    for part, verb in ((Part.TEST, "tested"), (Part.VALIDATION, "validated")):
        for client, images in _images(federation, part):
            yield f"client {client} is {verb}", images
    for name, tests in {**federation.domain_tests, **federation.unseen_tests}.items():
        if len(tests):
            yield f"the global model is tested, on the domain {name},", len(tests)


def _evaluations(federation: Federation) -> Iterator[Batch]:
    for words, images in _evaluated(federation):
        yield Batch(_smallest(images, EVALUATION_BATCH), f"{words} on")


def _adaptations(federation: Federation, most: int) -> Iterator[Batch]:
    """Yield the smallest of the parts of at most ``most`` images into which ``evaluation_batches`` divides a batch."""
    for words, images in _evaluated(federation):
        parts = -(-images // EVALUATION_BATCH)
        smallest = min(_smallest(batch, most) for batch in (images // parts, -(-images // parts)))
        yield Batch(smallest, f"{words}, with tta, on", "another tta.batch_size, a split or data that give more images")


def _images(federation: Federation, part: Part) -> list[tuple[int, int]]:
    """Return the numbers of images of this part that clients have, each with the first such client."""
    first: dict[int, int] = {}
    for client in federation.clients:
        first.setdefault(federation.num_images(client, part), client)
    first.pop(0, None)
    return [(client, images) for images, client in first.items()]


def _smallest(images: int, most: int) -> int:
    """Return the size of the smallest batch if images are divided evenly into as few batches of ``most`` as needed."""
    return images // -(-images // most)
