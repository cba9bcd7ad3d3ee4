"""Checks of replies before they are used: of this round, with the right shapes and types, finite, within limits.

A faulty or malicious client must neither end a run nor affect the model. Therefore every reply is checked by this code,
before a strategy, an evaluation or a table uses it: in the server, or, before workers of this machine or cluster add up
replies, there. An invalid reply is replaced by an error. The strategy declares the
checks of the records that a method adds to its replies (``fedsim/methods/reply_records.py``); other records are
refused.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

import torch
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from datasets.federation import Federation
from datasets.source import Part
from fedsim.messages.arrays import to_tensors
from fedsim.messages.errors import UNKNOWN
from fedsim.messages.groups import ADDED_UP
from fedsim.messages.schema import (
    ARRAYS,
    CONFIG,
    EVALUATE,
    EVALUATE_GLOBAL,
    EVALUATE_PARTS,
    EVALUATION,
    METRICS,
    NUM_EXAMPLES,
    PART,
    QUERY,
    QUERY_METHOD,
    ROUND,
    TRAIN,
    arrays_of,
    config_of,
    moved_entries,
)
from fedsim.methods.client_state import PERSONAL, TRAINED
from fedsim.methods.reply_records import Question, RecordCheck, ReplyFault, model_entries, refuse_other_form
from fedsim.metrics.registry import FURTHER_METRICS
from fedsim.metrics.scoring import CORRECT, LOSS, named, predictor_of, sums_of

Tensors = Mapping[str, torch.Tensor]


@dataclass
class ReplyChecks:
    """The checks for one federation, one model and one method."""

    federation: Federation
    initial: Tensors
    update_limit: float | None = None
    """No number may change by more than this times max(1, largest absolute value sent); ``None`` for no limit."""
    reply_records: Mapping[str, RecordCheck] = field(default_factory=dict)
    queries: Mapping[str, RecordCheck] = field(default_factory=dict)
    metrics: Sequence[str] = ()
    """The further metrics that clients count."""
    _last_sent: "_Sent | None" = field(default=None, repr=False)

    def checked(self, message: Message, reply: Message) -> Message:
        """Return the reply, or an error in its place."""
        if not reply.has_content():
            return reply
        try:
            self._check(message, reply)
        except ReplyFault as fault:
            return refused(message, str(fault))
        except Exception as error:  # unreadable content must not end the run
            return refused(message, unreadable(error))
        return reply

    def state_fault(self, state: RecordDict) -> str | None:
        """Return the fault of the personal part that a client sent with its state; ``None`` if it is valid."""
        try:
            model_entries(_finite_arrays(state, PERSONAL), Question(ConfigRecord(), {}, self.initial))
            round = state.config_records.get(TRAINED, ConfigRecord()).get(ROUND, 0)
            if not isinstance(round, int):
                raise ReplyFault(f"it says that it has trained in round {round!r}")
        except ReplyFault as fault:
            return str(fault)
        except Exception as error:
            return unreadable(error)
        return None

    def _check(self, message: Message, reply: Message) -> None:
        """Refuse an invalid reply.

        Raises:
            ReplyFault: If the reply is invalid.
            Exception: If it cannot be read, whatever reading raises.
        """
        type_, client = message.metadata.message_type, message.metadata.dst_node_id
        if type_ == TRAIN:
            self._training(message, reply.content, client)
        elif type_ in (EVALUATE, EVALUATE_GLOBAL):
            _only(reply.content, METRICS)
            images = None
            if type_ == EVALUATE:
                part = Part[str(config_of(message).get(PART, Part.TEST.name))]
                images = self.federation.num_images(client, part)
            self._evaluation(_metrics(reply.content, METRICS), images, by_class=type_ == EVALUATE_GLOBAL)
        elif type_ == QUERY_METHOD:
            self._answer(message, reply.content, client)

    def _training(self, message: Message, content: RecordDict, client: int) -> None:
        config, sent = config_of(message), to_tensors(arrays_of(message))
        asked = config.get(EVALUATE_PARTS, [])
        assert isinstance(asked, list)
        _only(content, METRICS, ARRAYS, *self.reply_records, *(EVALUATION + str(part) for part in asked))
        if ADDED_UP in _config(content):  # which only a worker of ours says, after these checks
            raise ReplyFault("it says that it is part of a sum")
        answered, round = _config(content).get(ROUND), config.get(ROUND)
        if answered != round:
            raise ReplyFault(f"it answered for round {answered!r} in round {round!r}")
        metrics, images = _metrics(content, METRICS), self.federation.num_images(client, Part.TRAIN)
        if _number(metrics, NUM_EXAMPLES) != images:
            raise ReplyFault(f"it says that it has {_number(metrics, NUM_EXAMPLES):g} images, which are {images}")
        _finite_metrics(metrics)
        trained = _arrays(content, ARRAYS)
        if sent.keys() != trained.keys():
            odd = ", ".join(sorted(sent.keys() ^ trained.keys())[:3])
            raise ReplyFault(f"it sent other entries than it was sent ({odd})")
        for name, tensor in trained.items():
            refuse_other_form(name, tensor, sent[name])
        if not self._within_limits(message.content, sent, trained, images):
            _finite(trained)
            self._moves(sent, trained, images, moved_entries(config))
        if self.reply_records:
            records = message.content.array_records
            question = Question(config, sent, self.initial, records, dict(metrics), self.update_limit)
            for name, check in self.reply_records.items():
                check(_finite_arrays(content, name), question)
        for part in map(str, asked):
            count = self.federation.num_images(client, Part[part])
            self._evaluation(_metrics(content, EVALUATION + part), count, by_class=False)

    def _within_limits(self, content: RecordDict, sent: Tensors, trained: Tensors, images: int) -> bool:
        """Return whether all numbers are finite and changed within the limits, checked for all entries at once.

        ``False`` means that there may be a fault, which the slower checks determine. All messages of a round share
        their content, so what this check needs of it is computed once.
        """
        if self.update_limit is None or moved_entries(_config(content)):
            return False
        if self._last_sent is None or self._last_sent.record is not content.get(ARRAYS):
            self._last_sent = _Sent.of(content.get(ARRAYS), sent)
        known = self._last_sent
        if known is None or not known.floating:
            return False
        if any(tensor.device != known.device for tensor in trained.values()):  # of a client on a GPU
            return False
        moved = _largest(torch._foreach_sub([trained[name] for name in known.floating], known.floats))
        if not all(each <= self.update_limit * known.largest for each in moved):
            return False
        if known.counters is None:
            return True
        steps = torch.stack([trained[name] for name in known.counting]) - known.counters
        return int(steps.min()) >= 0 and int(steps.max()) <= self.update_limit * images

    def _moves(self, before: Tensors, after: Tensors, images: int, elsewhere: Collection[str]) -> None:
        """Refuse numbers that have changed too much.

        Args:
            before: The entries that were sent.
            after: The entries of the reply.
            images: Number of the client's images, a bound for counters of batches.
            elsewhere: Entries whose numbers belong to other indices than those that were sent, so that the change is
                unknown. It is at least the absolute value minus the largest one that was sent, which is checked.
        """
        if self.update_limit is None:
            return
        floating = [name for name, tensor in before.items() if tensor.is_floating_point() and tensor.numel()]
        largest = max([1.0, *(float(before[name].abs().max()) for name in floating)])
        for name, tensor in after.items():
            if not tensor.numel():
                continue
            if name in elsewhere:
                moved = tensor.abs().max().item() - largest
            else:
                moved = (tensor - before[name].to(tensor.device)).abs().max().item()
            bound = self.update_limit * (largest if name in floating else images)  # a counter counts batches
            if moved > bound or (name not in floating and (tensor < before[name].to(tensor.device)).any()):
                raise ReplyFault(
                    f"it moved a number in {name} by {moved:.3g}, where update_limit={self.update_limit:g} allows "
                    f"{bound:.3g}"
                )

    def _answer(self, message: Message, content: RecordDict, client: int) -> None:
        """Refuse an invalid reply to a query of the method."""
        config = config_of(message)
        _only(content, METRICS, ARRAYS)
        metrics = _metrics(content, METRICS)
        examples = _number(metrics, NUM_EXAMPLES)
        if not 0 < examples <= self.federation.num_images(client, Part.TRAIN):
            raise ReplyFault(f"it says that it asked {examples:g} images")
        _finite_metrics(metrics)
        check = self.queries[str(config[QUERY])]
        question = Question(config, to_tensors(arrays_of(message)), self.initial, metrics=dict(metrics))
        check(_finite_arrays(content, ARRAYS), question)

    def _evaluation(self, metrics: MetricRecord, images: int | None, *, by_class: bool) -> None:
        """Refuse impossible counts, and a loss of the model that is not finite.

        The losses of other predictors may be infinite, for example if classes are masked.
        """
        examples = _number(metrics, NUM_EXAMPLES)
        if not 0 < examples < float("inf") or (images is not None and examples != images):
            raise ReplyFault(f"it says that it was tested on {examples:g} images")
        if CORRECT not in metrics or not isfinite(_number(metrics, LOSS)):
            raise ReplyFault("its evaluation has no loss that is a finite number")
        predictors = [predictor_of(name)[0] for name in metrics if name == CORRECT or name.endswith(f"-{CORRECT}")]
        for predictor in predictors:
            _number(metrics, named(predictor, LOSS))
        sums = self._sums(metrics, predictors, int(examples))
        for name, value in metrics.items():
            if name in sums:
                continue
            if name.endswith(sums_of("")):
                raise ReplyFault(f"it sent {name[:40]!r}, which nobody asked for")
            if isinstance(value, list) != (by_class and name.endswith("-by-class")):
                raise ReplyFault(f"its {name} is not of the form that it should be")
            if isinstance(value, list):
                if len(value) != self.federation.num_classes or not 0 <= min(value) <= max(value) <= examples:
                    raise ReplyFault(f"its {name} are not counts of {self.federation.num_classes} classes")
            elif name.endswith(CORRECT) and not 0 <= value <= examples:
                raise ReplyFault(f"it says that {value:g} of {examples:g} images are right")

    def _sums(self, metrics: MetricRecord, predictors: Sequence[str], examples: int) -> set[str]:
        """Refuse sums of further metrics that are missing, of another length, not finite, or impossible.

        Returns:
            The names of the sums, for all predictors in ``predictors``.
        """
        asked = {
            named(predictor, sums_of(name)): FURTHER_METRICS[name] for name in self.metrics for predictor in predictors
        }
        for name, metric in asked.items():
            sums, length = metrics.get(name), metric.length(self.federation.num_classes)
            if not isinstance(sums, list):
                raise ReplyFault(f"it sent no {name}")
            if len(sums) != length or not all(map(isfinite, sums)):
                raise ReplyFault(f"its {name} are not {length} finite numbers")
            try:
                metric.check(sums, examples)
            except ValueError as error:
                raise ReplyFault(f"its {name} {error}") from error
        return set(asked)


@dataclass(frozen=True)
class _Sent:
    """The arrays that many messages share, prepared for ``_within_limits``."""

    record: object
    """The record of these arrays"""
    floating: list[str]
    floats: list[torch.Tensor]
    largest: float
    """The largest absolute value of all floating-point numbers; at least 1."""
    counting: list[str]
    counters: torch.Tensor | None
    """(counters,), the integer entries, which are 0-D."""

    @property
    def device(self) -> torch.device:
        return self.floats[0].device

    @classmethod
    def of(cls, record: object, sent: Tensors) -> "_Sent | None":
        """Prepare arrays; ``None`` if they cannot be checked at once: mixed types or devices, GPU, other counters."""
        floating = [name for name, tensor in sent.items() if tensor.is_floating_point() and tensor.numel()]
        counting = [name for name, tensor in sent.items() if not tensor.is_floating_point()]
        floats, counters = [sent[name] for name in floating], [sent[name] for name in counting]
        kinds = {(each.dtype, each.device) for each in floats}
        if len(kinds) > 1 or len({each.dtype for each in counters}) > 1 or any(each.dim() for each in counters):
            return None
        if any(each.is_cuda for each in (*floats, *counters)):
            return None
        largest = max([1.0, *(_largest([each.clone() for each in floats]) if floats else [])])
        return cls(record, floating, floats, largest, counting, torch.stack(counters) if counters else None)


def refused(message: Message, reason: str) -> Message:
    return Message(Error(UNKNOWN, reason), reply_to=message)


def unreadable(error: Exception) -> str:
    return f"it sent what cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:200]})"


def _only(content: RecordDict, *allowed: str) -> None:
    odd = [name for name in content if name not in (*allowed, CONFIG)]
    if odd:
        raise ReplyFault(f"it sent a record called {odd[0][:40]!r}, which nobody asked for")


def _metrics(content: RecordDict, name: str) -> MetricRecord:
    metrics = content.get(name)
    if not isinstance(metrics, MetricRecord):
        raise ReplyFault(f"it sent no {name}")
    return metrics


def _number(metrics: MetricRecord, name: str) -> float:
    value = metrics.get(name)
    if not isinstance(value, int | float):
        raise ReplyFault(f"it sent no {name}")
    return float(value)


def _finite_metrics(metrics: MetricRecord) -> None:
    for name in metrics:
        if not isfinite(_number(metrics, name)):
            raise ReplyFault(f"its {name} is not finite")


def _largest(tensors: Sequence[torch.Tensor]) -> list[float]:
    """Return the largest absolute value of each tensor, which may be NaN; the tensors are changed in place."""
    torch._foreach_abs_(list(tensors))
    largest: list[float] = torch.stack([tensor.max() for tensor in tensors]).tolist()
    return largest


def _config(content: RecordDict) -> ConfigRecord:
    record = content.get(CONFIG, ConfigRecord())
    if not isinstance(record, ConfigRecord):
        raise ReplyFault(f"its {CONFIG} is not of the form that it should be")
    return record


def _arrays(content: RecordDict, record: str) -> Tensors:
    arrays = content.get(record)
    return to_tensors(arrays) if isinstance(arrays, ArrayRecord) else {}


def _finite_arrays(content: RecordDict, record: str) -> Tensors:
    tensors = _arrays(content, record)
    _finite(tensors)
    return tensors


def _finite(tensors: Tensors) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ReplyFault(f"it sent numbers in {name} that are not finite")
