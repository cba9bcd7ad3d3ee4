"""What a method declares of its clients' replies: each record beside the trained arrays, with a check.

A strategy names its records in ``reply_records`` and its queries in ``queries``. ``fedsim/server/reply_checks.py`` runs
the checks on every reply, before the strategy sees it, and refuses every record that is not declared.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import torch
from flwr.app import ArrayRecord, ConfigRecord

Tensors = Mapping[str, torch.Tensor]


class ReplyFault(Exception):
    """What is wrong with a reply, in words that go on after "it": ``it sent ...``."""


@dataclass(frozen=True)
class Question:
    """What a reply answers."""

    config: ConfigRecord
    """The message's config."""
    sent: Tensors
    """The message's arrays, in the form in which they travelled."""
    initial: Tensors
    """The entries of the model before training, for their shapes and types."""
    records: Mapping[str, ArrayRecord] = field(default_factory=dict)
    """All records of arrays that the message has."""
    update_limit: float | None = None
    """The setting; ``None`` for no limit."""


RecordCheck = Callable[[Tensors, Question], None]
"""Takes the tensors of a record, which are finite already, none if the reply lacks it, and raises ``ReplyFault``."""


def refuse_other_names(found: Collection[str], wanted: Collection[str], what: str) -> None:
    """Refuse a record whose entries are not exactly the ``wanted`` ones.

    Raises:
        ReplyFault: If they are others; ``what`` names the record, such as "control variates".
    """
    if set(found) != set(wanted):
        odd = ", ".join(sorted(set(found) ^ set(wanted))[:3])
        raise ReplyFault(f"it sent {what} of other entries than it was asked for ({odd})")


def refuse_other_form(name: str, tensor: torch.Tensor, wanted: torch.Tensor) -> None:
    """Refuse a tensor of another shape or type than ``wanted``.

    Raises:
        ReplyFault: With both forms.
    """
    if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
        found, right = (f"{t.dtype} {tuple(t.shape)}".removeprefix("torch.") for t in (tensor, wanted))
        raise ReplyFault(f"it sent {name} as {found}, which is {right}")


def refuse_too_large(name: str, tensor: torch.Tensor, question: Question) -> None:
    """Refuse a number larger than ``update_limit`` times the largest that was sent, or than one if all are smaller.

    Raises:
        ReplyFault: With the number and the limit.
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


def no_arrays(tensors: Tensors, question: Question) -> None:
    """Refuse arrays where only metrics were asked for.

    Raises:
        ReplyFault: If there are any.
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
    """Refuse what is no entry of the model in the model's form.

    Raises:
        ReplyFault: For the first such tensor.
    """
    for name, tensor in tensors.items():
        if name not in question.initial:
            raise ReplyFault(f"it sent {name[:40]!r}, which the model does not have")
        refuse_other_form(name, tensor, question.initial[name])
