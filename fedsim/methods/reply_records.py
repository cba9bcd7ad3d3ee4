"""Checks of the records that a method's replies contain beside the trained arrays.

A strategy declares its records in ``reply_records`` and its queries in ``queries``. ``fedsim/methods/reply_checks.py``
runs the checks on every reply, before the strategy sees it, and refuses every record that is not declared.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import torch
from flwr.app import ArrayRecord, ConfigRecord

Tensors = Mapping[str, torch.Tensor]


class ReplyFault(Exception):
    """An invalid reply; the message continues a sentence about the client: ``it sent ...``."""


@dataclass(frozen=True)
class Question:
    """The message that a reply answers, as far as checks need it."""

    config: ConfigRecord
    """The message's config."""
    sent: Tensors
    """The message's arrays, in the form in which they were sent."""
    initial: Tensors
    """The entries of the model before training, for their shapes and types."""
    records: Mapping[str, ArrayRecord] = field(default_factory=dict)
    """All array records of the message."""
    metrics: Mapping[str, object] = field(default_factory=dict)
    """The metrics of the reply, which are finite numbers."""
    update_limit: float | None = None
    """The setting ``update_limit``; ``None`` for no limit."""


RecordCheck = Callable[[Tensors, Question], None]
"""Checks the tensors of a record, known to be finite and empty if the reply lacks it, and may raise ``ReplyFault``.

Under the name ``metrics`` it checks what the method adds to these, which are in the question."""


def refuse_other_names(found: Collection[str], wanted: Collection[str], what: str) -> None:
    """Refuse a record whose entries are not exactly the ``wanted`` ones.

    Args:
        found: Names of the entries of the record.
        wanted: Names that it should have.
        what: Name of the record in the error message, such as "control variates".

    Raises:
        ReplyFault: If the names differ.
    """
    if set(found) != set(wanted):
        odd = ", ".join(sorted(set(found) ^ set(wanted))[:3])
        raise ReplyFault(f"it sent {what} of other entries than it was asked for ({odd})")


def refuse_other_form(name: str, tensor: torch.Tensor, wanted: torch.Tensor) -> None:
    """Refuse a tensor of another shape or type than ``wanted``.

    Raises:
        ReplyFault: If shape or type differ; the message names both.
    """
    if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
        found, right = (f"{t.dtype} {tuple(t.shape)}".removeprefix("torch.") for t in (tensor, wanted))
        raise ReplyFault(f"it sent {name} as {found}, which is {right}")


def refuse_too_large(name: str, tensor: torch.Tensor, question: Question) -> None:
    """Refuse a tensor with an absolute value above ``update_limit`` times max(1, largest absolute value sent).

    Raises:
        ReplyFault: If there is one; the message names the value and the limit.
    """
    if question.update_limit is None or not tensor.numel():
        return
    floating = [sent for sent in question.sent.values() if sent.is_floating_point() and sent.numel()]
    bound = question.update_limit * max([1.0, *(float(sent.abs().max()) for sent in floating)])
    largest = float(tensor.abs().max())
    if largest > bound:
        raise ReplyFault(
            f"it sent {largest:.3g} in {name}, where update_limit={question.update_limit:g} allows {bound:.3g}"
        )


def refuse_without(metric: str, question: Question, *, above: float | None = None) -> None:
    """Refuse a reply without this metric, or with one that is not above a limit.

    Raises:
        ReplyFault: Naming the metric.
    """
    value = question.metrics.get(metric)
    if not isinstance(value, int | float) or (above is not None and not value > above):
        raise ReplyFault(f"it sent no {metric}" if value is None else f"its {metric} is {value}")


def no_arrays(tensors: Tensors, question: Question) -> None:
    """Refuse arrays in a reply to a query for metrics only.

    Raises:
        ReplyFault: If there are any arrays.
    """
    refuse_other_names(tensors, (), "arrays")


def these_entries(tensors: Tensors, question: Question, names: Collection[str]) -> None:
    """Refuse what is not exactly the named entries of the model, in the model's form.

    Raises:
        ReplyFault: For the first such tensor.
    """
    refuse_other_names(tensors, names, "values")
    model_entries(tensors, question)


def model_entries(tensors: Tensors, question: Question) -> None:
    """Refuse tensors that do not have the name, shape and type of an entry of the model.

    Raises:
        ReplyFault: If there is one; the message names the first.
    """
    for name, tensor in tensors.items():
        if name not in question.initial:
            raise ReplyFault(f"it sent {name[:40]!r}, which the model does not have")
        refuse_other_form(name, tensor, question.initial[name])
