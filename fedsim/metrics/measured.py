"""Results of a model on a test set, as counts and sums, so that results on several test sets can be pooled."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from flwr.app import Message, MetricRecord

from fedsim.messages.schema import NUM_EXAMPLES, metrics_of, number
from fedsim.methods.interfaces import PLAIN
from fedsim.metrics.registry import FURTHER_METRICS
from fedsim.metrics.scoring import CORRECT, CORRECT_BY_CLASS, EXAMPLES_BY_CLASS, LOSS, named, predictor_of, sums_of


@dataclass(frozen=True)
class Measured:
    """Results of a model on a test set."""

    num_examples: int
    correct: int
    loss: float
    """The mean over the examples."""
    others: "Mapping[str, Measured]" = field(default_factory=dict)
    """Further predictors by name: the method's own, masked ones, and with ``tta=`` all of them as ``adapted``."""
    by_class: tuple[tuple[int, int], ...] = ()
    """For each class, the number of images and of correct ones; only for the global model."""
    sums: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """The sums of each further metric in ``metrics=``, in the order of the registry."""

    @property
    def accuracy(self) -> float:
        return self.correct / self.num_examples

    @property
    def values(self) -> dict[str, float | None]:
        """The values of the further metrics by name; ``None`` for an undefined one."""
        return {name: FURTHER_METRICS[name].value(sums, self.num_examples) for name, sums in self.sums.items()}

    @classmethod
    def from_reply(cls, reply: Message) -> "Measured":
        return cls.from_metrics(metrics_of(reply))

    @classmethod
    def from_metrics(cls, metrics: MetricRecord) -> "Measured":
        others = [predictor_of(key)[0] for key in metrics if key.endswith(f"-{CORRECT}")]
        return replace(cls._of(PLAIN, metrics), others={name: cls._of(name, metrics) for name in others})

    @classmethod
    def _of(cls, predictor: str, metrics: MetricRecord) -> "Measured":
        by_class: tuple[tuple[int, int], ...] = ()
        if EXAMPLES_BY_CLASS in metrics:
            examples, right = metrics[EXAMPLES_BY_CLASS], metrics[named(predictor, CORRECT_BY_CLASS)]
            assert isinstance(examples, list)
            assert isinstance(right, list)
            by_class = tuple((int(all_), int(some)) for all_, some in zip(examples, right, strict=True))
        sums = {name: metrics.get(named(predictor, sums_of(name))) for name in FURTHER_METRICS}
        return cls(
            num_examples=int(number(metrics, NUM_EXAMPLES)),
            correct=int(number(metrics, named(predictor, CORRECT))),
            loss=number(metrics, named(predictor, LOSS)),
            by_class=by_class,
            sums={name: tuple(map(float, each)) for name, each in sums.items() if isinstance(each, list)},
        )


@dataclass(frozen=True)
class Evaluation:
    """All results of one round, for clients in ascending order and for domains in the source's order."""

    clients: dict[int, Measured]
    """Each client's own model on its own test set."""
    domains: dict[str, Measured]
    """The global model on the test set of each domain that a client belongs to."""
    unseen: dict[str, Measured] = field(default_factory=dict)
    """The global model on the domains that were left out of training."""
    validation: dict[int, Measured] = field(default_factory=dict)
    """Each client's own model on its validation images, for clients that have any."""


def pool(tested: Iterable[Measured]) -> Measured:
    """Return the result on the union of several test sets that have no image in common."""
    parts = list(tested)
    examples = sum(part.num_examples for part in parts)
    classes = [each.by_class for each in parts if each.by_class]
    return Measured(
        num_examples=examples,
        correct=sum(part.correct for part in parts),
        loss=sum(part.loss * part.num_examples for part in parts) / examples,
        others={name: pool(part.others[name] for part in parts) for name in parts[0].others},
        by_class=tuple(
            (sum(images for images, _ in each), sum(right for _, right in each)) for each in zip(*classes, strict=True)
        ),
        sums={name: tuple(map(sum, zip(*(part.sums[name] for part in parts), strict=True))) for name in parts[0].sums},
    )
