"""Scoring of a model: the metrics in a client's reply to an evaluation message."""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

from datasets.examples import EVALUATION_BATCH, Examples, evaluation_batches
from fedsim.messages.schema import NUM_EXAMPLES
from fedsim.methods.interfaces import PLAIN, ClientContext, LocalTrainer
from fedsim.metrics.metric import Metric
from fedsim.metrics.registry import FURTHER_METRICS

MASKED = "masked"
"""The predictor that only predicts classes of which its client has training images."""
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
    batch_size: int = EVALUATION_BATCH,
) -> Scores:
    """Return ``num-examples``, and for each predictor ``correct`` and ``loss``.

    ``correct`` is a count, so that test sets can be pooled. The scores of other predictors than the plain one are named
    ``NAME-correct`` and ``NAME-loss``. The global model, which is not a client's own, is also scored by class, as
    ``correct-by-class`` and ``examples-by-class``.

    Args:
        trainer: Predicts with the model.
        model: The model; it is set to eval mode.
        data: The test images.
        context: The client context; ``own`` is false for the global model.
        held: (classes,), true for the classes of which a client has training images; adds the masked predictors.
        metrics: Further metrics by name, whose sums are added as ``METRIC-sums``.
        batch_size: The largest number of images of which the trainer predicts at once.
    """
    model.eval()
    device = data.labels.device
    losses: dict[str, torch.Tensor] = {}  # sums stay on the device to avoid synchronization
    right: dict[str, torch.Tensor] = {}
    sums: dict[str, torch.Tensor] = {}
    for indices in evaluation_batches(len(data), batch_size):
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
    """Return the name of the sums of a further metric in the scores."""
    return f"{metric}-sums"


def named(predictor: str, metric: str) -> str:
    return metric if predictor == PLAIN else f"{predictor}-{metric}"


def joined(*names: str) -> str:
    """Return names joined as in ``adapted_realigned``; the plain predictor's empty name is left out."""
    return "_".join(name for name in names if name != PLAIN)


def under(prefix: str, scores: Scores) -> Scores:
    """Return the scores with ``prefix`` added to the names of predictors; without the numbers of examples."""
    renamed: Scores = {}
    for key, value in scores.items():
        if key not in (NUM_EXAMPLES, EXAMPLES_BY_CLASS):
            predictor, metric = predictor_of(key)
            renamed[named(joined(prefix, predictor), metric)] = value
    return renamed


def predictor_of(key: str) -> tuple[str, str]:
    """Return the predictor and the metric of a key of ``Scores``.

    Raises:
        ValueError: If it is not the score of a predictor.
    """
    for metric in (CORRECT_BY_CLASS, CORRECT, LOSS, *map(sums_of, FURTHER_METRICS)):
        if key == metric or key.endswith(f"-{metric}"):
            return key.removesuffix(metric).removesuffix("-"), metric
    raise ValueError(f"{key} is not a score of a predictor")


def _with_masked(predictions: Mapping[str, torch.Tensor], held: torch.Tensor | None) -> dict[str, torch.Tensor]:
    if held is None:
        return dict(predictions)
    masked = {joined(name, MASKED): logits.masked_fill(~held, -torch.inf) for name, logits in predictions.items()}
    return {**predictions, **masked}
