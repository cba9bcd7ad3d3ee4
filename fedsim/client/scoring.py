"""How many images a model gets right: what a client answers when it is evaluated."""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

from datasets.examples import Examples, evaluation_batches
from fedsim.messages.schema import NUM_EXAMPLES
from fedsim.methods.interfaces import PLAIN, ClientContext, LocalTrainer
from fedsim.metrics.metric import Metric
from fedsim.metrics.registry import FURTHER_METRICS

MASKED = "masked"
"""A predictor that chooses only between the classes that its client has training images of."""
CORRECT, LOSS = "correct", "loss"
CORRECT_BY_CLASS, EXAMPLES_BY_CLASS = "correct-by-class", "examples-by-class"
Scores = dict[str, float | list[int] | list[float]]


@torch.no_grad()
def score(
    trainer: LocalTrainer,
    model: nn.Module,
    data: Examples,
    context: ClientContext,
    *,
    held: torch.Tensor | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> Scores:
    """``num-examples``, and for each predictor ``correct`` (a count, so that test sets can be pooled) and ``loss``.

    Those of other predictors than the plain one stand under ``NAME-correct`` and ``NAME-loss``. ``held`` (classes,),
    true for the classes that a client has training images of, adds the masked predictors. The global model, which is
    not a client's own, is also counted class by class: ``correct-by-class`` and ``examples-by-class``. The sums of
    further ``metrics`` stand under ``METRIC-sums``.
    """
    model.eval()
    device = data.labels.device
    losses: dict[str, torch.Tensor] = {}  # sums stay on the device, so that a GPU is not made to wait
    right: dict[str, torch.Tensor] = {}
    sums: dict[str, torch.Tensor] = {}
    for indices in evaluation_batches(len(data)):
        images, labels = data.batch(indices.to(device))
        for name, logits in _with_masked(trainer.predict(model, images, context), held).items():
            losses.setdefault(name, torch.zeros((), device=device)).add_(
                F.cross_entropy(logits, labels, reduction="sum")
            )
            hits = labels[logits.argmax(1) == labels].bincount(minlength=logits.shape[1])
            right[name] = right[name] + hits if name in right else hits
            for metric, counting in (metrics or {}).items():
                key, counted = named(name, sums_of(metric)), counting.count(logits, labels)
                sums[key] = sums[key] + counted if key in sums else counted
    scores: Scores = {NUM_EXAMPLES: len(data)}
    for name, hits in right.items():
        scores[named(name, CORRECT)] = int(hits.sum())
        scores[named(name, LOSS)] = losses[name].item() / len(data)
        if not context.own:
            scores[named(name, CORRECT_BY_CLASS)] = hits.tolist()
    if not context.own:
        scores[EXAMPLES_BY_CLASS] = data.labels.bincount(minlength=len(hits)).tolist()
    scores |= {key: total.tolist() for key, total in sums.items()}
    return scores


def sums_of(metric: str) -> str:
    """Return what the sums of a further metric are called among the scores."""
    return f"{metric}-sums"


def named(predictor: str, metric: str) -> str:
    return metric if predictor == PLAIN else f"{predictor}-{metric}"


def joined(*names: str) -> str:
    """``adapted_realigned`` from both words; the plain predictor's name adds nothing."""
    return "_".join(name for name in names if name != PLAIN)


def under(prefix: str, scores: Scores) -> Scores:
    """The scores of the same predictors in another state, under names that begin with ``prefix``."""
    renamed: Scores = {}
    for key, value in scores.items():
        if key not in (NUM_EXAMPLES, EXAMPLES_BY_CLASS):
            predictor, metric = predictor_of(key)
            renamed[named(joined(prefix, predictor), metric)] = value
    return renamed


def predictor_of(key: str) -> tuple[str, str]:
    """The predictor and the metric that a key of ``Scores`` is about."""
    for metric in (CORRECT_BY_CLASS, CORRECT, LOSS, *map(sums_of, FURTHER_METRICS)):
        if key == metric or key.endswith(f"-{metric}"):
            return key.removesuffix(metric).removesuffix("-"), metric
    raise ValueError(f"{key} is not a score of a predictor")


def _with_masked(predictions: Mapping[str, torch.Tensor], held: torch.Tensor | None) -> dict[str, torch.Tensor]:
    if held is None:
        return dict(predictions)
    masked = {joined(name, MASKED): logits.masked_fill(~held, -torch.inf) for name, logits in predictions.items()}
    return {**predictions, **masked}
