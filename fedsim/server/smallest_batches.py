"""One trial before the first round: the smallest batches that will occur, through the network as it will be used.

What a network cannot do with them would else end a run in the round that first draws the client who has them. Only
their sizes come from the data; the images are noise. Each costs a forward pass of a few images.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
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
from fedsim.norms.policy import NormPolicy
from fedsim.tta import adaptation_of

ENOUGH = 2
"""Images that show as much about an evaluation as a larger batch does; what differs is one alone."""


@dataclass(frozen=True)
class Batch:
    """One that will occur."""

    size: int
    words: str
    """Whose it is and what for, as the beginning of a sentence: ``client 3 trains on``"""
    remedy: str = "a split or data that give more images"
    """What would make it larger"""


def try_smallest_batches(
    settings: Settings, federation: Federation, model: nn.Module, trainer: LocalTrainer, queried_share: float = 0.0
) -> bool:
    """Try the smallest batches of training, of questions and of evaluations; the model stays as it is.

    ``queried_share`` is that of its training images which a client is asked about before it trains, 0 for none. Returns
    whether, at evaluation, the result of an image depends on the others of its batch.

    Raises: ``UserError`` naming the client, or domain, whose batch is too small for the network, or if the network does
    not answer with one logit for each image and class in training.
    """
    trial = _Trial(settings, federation, model, trainer)
    trial.run(trial.train, _trained(federation, settings.batch_size))
    if queried_share:
        trial.run(trial.train, _asked(federation, queried_share))
    if trial.policy.reestimates:
        trial.run(trial.estimate, _estimated(federation))
    trial.run(trial.evaluate, _evaluations(federation))
    if trial.adaptation is not None:
        trial.run(trial.adapt, _adaptations(federation, trial.adaptation.batch_size))
    return trial.depends_on_batch()


class _Trial:
    """What is done with batches, in the ways of ``ClientHost`` and ``LocalSGD``."""

    def __init__(self, settings: Settings, federation: Federation, model: nn.Module, trainer: LocalTrainer) -> None:
        self.model, self.trainer = model, trainer
        self.name, self.norm = settings.model["name"], settings.norm["name"]
        self.num_classes, self.image_shape = federation.num_classes, federation.source.image_shape
        self.policy = NormPolicy.of(settings.norm, settings.rounds)
        self.adaptation = adaptation_of(settings.tta)

    def images(self, count: int, first: int = 0) -> torch.Tensor:
        """(count, channels, height, width), between -1 and 1; number ``first`` and those after it of one series."""
        generators = (torch.Generator().manual_seed(first + number) for number in range(count))
        return torch.stack([2 * torch.rand(self.image_shape, generator=generator) - 1 for generator in generators])

    def run(self, does: Callable[[int], None], batches: Iterable[Batch]) -> None:
        """Raises: ``UserError`` if it cannot be done with the smallest of the batches."""
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
        """Whether anything in the network makes something else of the first image if the second is another one.

        Every module is watched, since a branch may start with a weight of zero.
        """
        first = self._of_first_image(self.images(2))
        second = self._of_first_image(torch.cat([self.images(1), self.images(1, first=2)]))
        return any(not torch.equal(one, other) for one, other in zip(first, second, strict=True))

    def _of_first_image(self, pair: torch.Tensor) -> list[torch.Tensor]:
        """What each module, each time it is called, makes of the first of two images."""
        made: list[torch.Tensor] = []

        def note(_: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, torch.Tensor) and output.dim() and len(output) == len(pair):
                made.append(output[0].nan_to_num())  # a copy: what is not a number differs from itself

        hooks = [module.register_forward_hook(note) for module in self.model.modules()]
        try:
            with undisturbed(self.model), self._evaluating():
                self.model.eval()(pair)
        finally:
            for hook in hooks:
                hook.remove()
        return made


def _failure(does: Callable[[int], None], count: int) -> Exception | None:
    """What goes wrong with so many images. Raises: ``UserError`` for what has a sentence of its own."""
    try:
        does(count)
    except UserError:
        raise
    except Exception as error:  # whatever a network raises
        return error
    return None


def _trained(federation: Federation, batch_size: int) -> Iterator[Batch]:
    for client, images in _images(federation, Part.TRAIN):
        sizes = [len(batch) for batch in training_batches(torch.arange(images), batch_size)]
        by_size = Batch(min(sizes), f"client {client} trains on")
        yield by_size if len(sizes) == 1 else replace(by_size, remedy="another batch_size")


def _asked(federation: Federation, share: float) -> Iterator[Batch]:
    """The share that queries are about."""
    for client, images in _images(federation, Part.TRAIN):
        asked = max(1, round(share * images))
        yield Batch(_smallest(asked, EVALUATION_BATCH), f"client {client} is asked, before training, about")


def _estimated(federation: Federation) -> Iterator[Batch]:
    """What statistics are re-estimated on; for a domain that nobody trains on, its test images."""
    sets = {f"for client {client}": images for client, images in _images(federation, Part.TRAIN)}
    sets |= {f"for the domain {name}": len(tests) for name, tests in federation.unseen_tests.items()}
    for whose, images in sets.items():
        yield Batch(_smallest(images, EVALUATION_BATCH), f"statistics are re-estimated, {whose}, on")


def _evaluated(federation: Federation) -> Iterator[tuple[str, int]]:
    """Everything that is tested or validated, and its number of images."""
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
    """The parts of at most ``most`` images that ``forward_by`` makes of the batches of an evaluation."""
    for words, images in _evaluated(federation):
        parts = -(-images // EVALUATION_BATCH)
        smallest = min(_smallest(batch, most) for batch in (images // parts, -(-images // parts)))
        yield Batch(smallest, f"{words}, with tta, on", "another tta.batch_size, a split or data that give more images")


def _images(federation: Federation, part: Part) -> Iterator[tuple[int, int]]:
    """The clients that have images for this, and how many."""
    for client in federation.clients:
        images = federation.num_images(client, part)
        if images:
            yield client, images


def _smallest(images: int, most: int) -> int:
    """The size of the smallest of as few batches of at most ``most`` as possible, as equal as can be."""
    return images // -(-images // most)
