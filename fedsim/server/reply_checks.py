"""What a reply must be before anything is made of it: of this round, of the right form, finite, and not absurd.

A client that is broken or means harm must not end a run, nor reach the model. So every reply is looked at in one place,
before a strategy, an evaluation or a table sees it; what is wrong becomes an error in its stead.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

import torch
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict

from datasets.federation import Federation
from datasets.source import Part
from fedsim.client.host import PERSONAL, TRAINED
from fedsim.client.scoring import CORRECT, LOSS, named, predictor_of, sums_of
from fedsim.engines.grid import FederationGrid, WrappedGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.compression import decompress
from fedsim.messages.schema import (
    ARRAYS,
    CONFIG,
    EVALUATE,
    EVALUATE_GLOBAL,
    EVALUATE_PARTS,
    EVALUATION,
    GRADIENTS,
    GROW,
    MASKS,
    METRICS,
    NUM_EXAMPLES,
    PART,
    PLACES,
    QUERY_BN_STATISTICS,
    QUERY_CANDIDATE_LOSS,
    QUERY_GRADIENTS,
    REPLACE,
    ROUND,
    SQUARES,
    TRAIN,
    VALUES,
    arrays_of,
    config_of,
    counts_of,
)
from fedsim.methods.sparse.masks import decode, entry, kept
from fedsim.metrics.registry import FURTHER_METRICS

REFUSED = 0
"""Flower's ``ErrorCode.UNKNOWN``; the reason says more."""
Tensors = Mapping[str, torch.Tensor]


class Fault(Exception):
    """What is wrong with a reply, in words."""


@dataclass(frozen=True)
class Vetting:
    """The rules, for one federation and one model.

    ``update_limit``: no number may move by more than so many times the largest that was sent, or than one if all are
    smaller; ``None`` for any. With ``compression`` a training reply is vetted as what it stands for.
    """

    federation: Federation
    initial: Tensors
    update_limit: float | None = None
    compression: str | None = None
    exact: frozenset[str] = field(default_factory=frozenset)
    """What is never compressed"""
    metrics: Sequence[str] = ()
    """The further metrics that clients are to count"""

    def vetted(self, message: Message, reply: Message) -> Message:
        """The reply, no longer compressed, or an error in its place."""
        if not reply.has_content():
            return reply
        try:
            self._look_at(message, reply)
        except Fault as fault:
            return Message(Error(REFUSED, str(fault)), reply_to=message)
        except Exception as error:  # whatever nonsense was sent, it must not end the run
            return Message(Error(REFUSED, _unreadable(error)), reply_to=message)
        return reply

    def state_fault(self, state: RecordDict) -> str | None:
        """What is wrong with what a client tells of its personal part; ``None`` if nothing is."""
        try:
            for name, tensor in _finite_arrays(state, PERSONAL).items():
                if name not in self.initial:
                    raise Fault(f"it sent {name[:40]!r}, which the model does not have")
                _same(name, tensor, self.initial[name])
            round = state.config_records.get(TRAINED, ConfigRecord()).get(ROUND, 0)
            if not isinstance(round, int):
                raise Fault(f"it says that it has trained in round {round!r}")
        except Fault as fault:
            return str(fault)
        except Exception as error:
            return _unreadable(error)
        return None

    def _look_at(self, message: Message, reply: Message) -> None:
        """Errors: ``Fault``, or anything."""
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
        elif type_ in (QUERY_BN_STATISTICS, QUERY_CANDIDATE_LOSS, QUERY_GRADIENTS):
            _only(reply.content, METRICS, ARRAYS)
            metrics = _metrics(reply.content, METRICS)
            examples = _number(metrics, NUM_EXAMPLES)
            if not 0 < examples <= self.federation.num_images(client, Part.TRAIN):
                raise Fault(f"it says that it asked {examples:g} images")
            _finite_metrics(metrics)
            for name, tensor in _finite_arrays(reply.content, ARRAYS).items():
                shape = self.initial[name if name in self.initial else f"{name}.weight"].shape
                _same(name, tensor, torch.empty(shape, device="meta"))

    def _training(self, message: Message, content: RecordDict, client: int) -> None:
        config = config_of(message)
        asked, replaced = config.get(EVALUATE_PARTS, []), counts_of(config, REPLACE)
        assert isinstance(asked, list)
        more = (*(EVALUATION + str(part) for part in asked), *((MASKS,) if replaced else ()))
        _only(content, METRICS, ARRAYS, CONFIG, GRADIENTS, SQUARES, *more)
        told, round = content.config_records.get(CONFIG, ConfigRecord()).get(ROUND), config.get(ROUND)
        if told != round:
            raise Fault(f"it answered for round {told!r} in round {round!r}")
        metrics, images = _metrics(content, METRICS), self.federation.num_images(client, Part.TRAIN)
        if _number(metrics, NUM_EXAMPLES) != images:
            raise Fault(f"it says that it has {_number(metrics, NUM_EXAMPLES):g} images, which are {images}")
        _finite_metrics(metrics)
        before = to_tensors(arrays_of(message))
        if self.compression is not None:
            received = to_tensors(content.array_records.get(ARRAYS, {}))
            exact = self.exact.union(map(entry, replaced))
            content[ARRAYS] = to_record(decompress(self.compression, before, received, exact))
        after = _finite_arrays(content, ARRAYS)
        if before.keys() != after.keys():
            odd = ", ".join(sorted(before.keys() ^ after.keys())[:3])
            raise Fault(f"it sent other entries than it was sent ({odd})")
        for name, tensor in after.items():
            _same(name, tensor, before[name])
        self._moves(before, after, images, {*map(entry, replaced)})
        self._masks(before, content, replaced)
        self._gradients(content, config)
        for part in map(str, asked):
            count = self.federation.num_images(client, Part[part])
            self._evaluation(_metrics(content, EVALUATION + part), count, by_class=False)

    def _moves(self, before: Tensors, after: Tensors, images: int, elsewhere: Collection[str]) -> None:
        """``elsewhere`` are the entries whose numbers may have other places than those that were sent. From where one
        of them has moved is not known, but how far at the least: no number was larger than the largest."""
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
                raise Fault(
                    f"it moved a number in {name} by {moved:.3g}, where update_limit={self.update_limit:g} allows "
                    f"{bound:.3g}"
                )

    def _masks(self, before: Tensors, content: RecordDict, replaced: Collection[str]) -> None:
        """Those of clients that replace weights: of the layers that they were to, each with as many weights as ever."""
        codes = to_tensors(content.array_records.get(MASKS, {}))
        if codes.keys() != set(replaced):
            raise Fault("it sent the masks of other layers than it was asked for")
        masks = decode(codes, {layer: self.initial[entry(layer)].shape for layer in codes})
        for layer, count in kept(masks).items():
            if count != before[entry(layer)].numel():
                raise Fault(f"its mask of {layer} keeps {count} weights, which are {before[entry(layer)].numel()}")

    def _gradients(self, content: RecordDict, config: Mapping[str, object]) -> None:
        """Those that FedTiny and PruneFL ask for: of the layers, as many, and of the places that they asked for."""
        wanted = counts_of(config, GROW)
        gradients = _finite_arrays(content, GRADIENTS)
        if gradients.keys() != {f"{layer}{kind}" for layer in wanted for kind in (PLACES, VALUES)}:
            raise Fault("it sent the gradients of other layers than it was asked for")
        for layer, count in wanted.items():
            places, values = gradients[layer + PLACES], gradients[layer + VALUES]
            size = self.initial[f"{layer}.weight"].numel()
            if places.shape != values.shape or places.dim() != 1 or len(places) > count or places.is_floating_point():
                raise Fault(f"it sent gradients of {layer} in another form than it was asked for")
            if len(places) and not 0 <= int(places.min()) <= int(places.max()) < size:
                raise Fault(f"it sent the gradient of a weight that {layer} does not have")
        squares = _finite_arrays(content, SQUARES)
        if squares and not config.get(SQUARES):
            raise Fault("it sent squared gradients that nobody asked for")
        for layer, tensor in squares.items():
            _same(layer, tensor, self.initial[f"{layer}.weight"])

    def _evaluation(self, metrics: MetricRecord, images: int | None, *, by_class: bool) -> None:
        """Counts that can be, and a loss; that of another predictor may be infinite, as where a class is masked."""
        examples = _number(metrics, NUM_EXAMPLES)
        if not 0 < examples < float("inf") or (images is not None and examples != images):
            raise Fault(f"it says that it was tested on {examples:g} images")
        if CORRECT not in metrics or not isfinite(_number(metrics, LOSS)):
            raise Fault("its evaluation has no loss that is a finite number")
        sums = self._sums(metrics, int(examples))
        for name, value in metrics.items():
            if name in sums:
                continue
            if name.endswith(sums_of("")):
                raise Fault(f"it sent {name[:40]!r}, which nobody asked for")
            if isinstance(value, list) != (by_class and name.endswith("-by-class")):
                raise Fault(f"its {name} is not of the form that it should be")
            if isinstance(value, list):
                if len(value) != self.federation.num_classes or not 0 <= min(value) <= max(value) <= examples:
                    raise Fault(f"its {name} are not counts of {self.federation.num_classes} classes")
            elif name.endswith(CORRECT) and not 0 <= value <= examples:
                raise Fault(f"it says that {value:g} of {examples:g} images are right")

    def _sums(self, metrics: MetricRecord, examples: int) -> set[str]:
        """Refuse sums of a further metric that are missing, of another length, not finite, or that cannot be.

        Returns the names that they have, for every predictor that is there.
        """
        predictors = [predictor_of(name)[0] for name in metrics if name == CORRECT or name.endswith(f"-{CORRECT}")]
        asked = {
            named(predictor, sums_of(name)): FURTHER_METRICS[name] for name in self.metrics for predictor in predictors
        }
        for name, metric in asked.items():
            sums, length = metrics.get(name), metric.length(self.federation.num_classes)
            if not isinstance(sums, list):
                raise Fault(f"it sent no {name}")
            if len(sums) != length or not all(map(isfinite, sums)):
                raise Fault(f"its {name} are not {length} finite numbers")
            try:
                metric.check(sums, examples)
            except ValueError as error:
                raise Fault(f"its {name} {error}") from error
        return set(asked)


class VettedGrid(WrappedGrid):
    """Another grid whose replies have been looked at."""

    def __init__(self, grid: FederationGrid, vetting: Vetting) -> None:
        super().__init__(grid)
        self._vetting = vetting

    def passed(self, message: Message, reply: Message) -> Message:
        return self._vetting.vetted(message, reply)


def _unreadable(error: Exception) -> str:
    return f"it sent what cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:200]})"


def _only(content: RecordDict, *allowed: str) -> None:
    odd = [name for name in content if name not in (*allowed, CONFIG)]
    if odd:
        raise Fault(f"it sent a record called {odd[0][:40]!r}, which nobody asked for")


def _metrics(content: RecordDict, name: str) -> MetricRecord:
    if name not in content.metric_records:
        raise Fault(f"it sent no {name}")
    return content.metric_records[name]


def _number(metrics: MetricRecord, name: str) -> float:
    value = metrics.get(name)
    if not isinstance(value, int | float):
        raise Fault(f"it sent no {name}")
    return float(value)


def _finite_metrics(metrics: MetricRecord) -> None:
    for name in metrics:
        if not isfinite(_number(metrics, name)):
            raise Fault(f"its {name} is not finite")


def _finite_arrays(content: RecordDict, record: str) -> Tensors:
    tensors = to_tensors(content.array_records[record]) if record in content.array_records else {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise Fault(f"it sent numbers in {name} that are not finite")
    return tensors


def _same(name: str, tensor: torch.Tensor, wanted: torch.Tensor) -> None:
    if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
        found, right = (f"{t.dtype} {tuple(t.shape)}".removeprefix("torch.") for t in (tensor, wanted))
        raise Fault(f"it sent {name} as {found}, which is {right}")
