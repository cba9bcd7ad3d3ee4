"""The round loop: train a cohort, aggregate, evaluate, record, checkpoint."""

import logging
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from datasets.federation import Federation
from datasets.source import Part
from fedsim.config.settings import Settings
from fedsim.core.errors import RoundFailed, UserError
from fedsim.cost import CostTracker
from fedsim.diagnostics.diagnosis import Diagnosis
from fedsim.diagnostics.updates import UpdateStatistics
from fedsim.engines.grid import FederationGrid, LocalGrid
from fedsim.engines.grid_wrappers import CountingGrid, FaultGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import (
    CONFIG,
    DEVICE_PEAK_MB,
    DEVICE_SECONDS,
    EVALUATE_PARTS,
    EVALUATION,
    MASKS,
    arrays_of,
    config_of,
)
from fedsim.methods.interfaces import ServerHalf
from fedsim.metrics.class_metrics import ClassTracker
from fedsim.metrics.measured import Measured
from fedsim.metrics.round_metrics import Row, age_metrics, client_rows, fault_rows, round_metrics
from fedsim.norms.policy import NormPolicy
from fedsim.output.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fedsim.output.progress import Reporter
from fedsim.output.recorder import Recorder
from fedsim.server.evaluation import (
    Evaluation,
    asked_clients,
    complete_model,
    evaluate,
    evaluation_messages,
    personal_ages,
    with_clients,
)
from fedsim.server.loss_watch import LossWatch
from fedsim.server.reply_checks import VettedGrid, Vetting
from fedsim.tta import adaptation_of

log = logging.getLogger(__name__)


TRAINING = "train"
"""What stands in the ``split`` of a fault in ``clients.csv`` if it is neither a part of the images that is evaluated
nor the type of a question."""
TRAINING_LOSS = "train_loss"
"""The column of ``rounds.csv``"""
_ByPart = dict[Part, dict[int, Measured]]
"""What clients measured, on which part of their images."""


@dataclass
class _Played:
    """A round, until it is written down."""

    round: int
    started: float
    seconds: float = 0.0
    row: Row = field(default_factory=dict)
    updates: UpdateStatistics | None = None
    faults: list[tuple[int, str, str]] = field(default_factory=list)
    """The clients that failed or whose reply was refused, at what, and why"""
    states: Mapping[int, RecordDict] = field(default_factory=dict)
    model: Mapping[str, torch.Tensor] | None = None
    """The global one, where it was needed and can be known"""
    evaluation: Evaluation | None = None
    asked: Mapping[Part, Collection[int]] = field(default_factory=dict)
    """The clients that still have to be asked what their models are worth, along with the next round"""
    measured: _ByPart = field(default_factory=dict)
    """What they have answered"""


class FederatedLoop:
    """One run of one method over one federation on one engine."""

    def __init__(
        self,
        settings: Settings,
        federation: Federation,
        grid: FederationGrid,
        strategy: ServerHalf,
        initial: dict[str, torch.Tensor],
        recorder: Recorder,
        reporter: Reporter,
        classes: ClassTracker,
        costs: CostTracker,
        diagnosis: Diagnosis | None = None,
        exact: frozenset[str] = frozenset(),
        *,
        by_batch: bool = False,
    ) -> None:
        """``exact`` names the entries that are not compressed; ``by_batch`` says whether, at evaluation, the result of
        an image depends on the others of its batch."""
        self.settings = settings
        self.federation = federation
        self.grid = grid
        self.strategy = strategy
        self.initial = initial
        self.recorder = recorder
        self.reporter = reporter
        self.classes = classes
        self.costs = costs
        self.diagnosis = diagnosis
        limits = settings.update_limit, settings.compression
        self.vetting = Vetting(federation, initial, *limits, exact, settings.metrics)
        self.policy = NormPolicy.of(settings.norm, settings.rounds)
        adapts = adaptation_of(settings.tta) is not None
        own = strategy.personal or self.policy.reestimates or adapts or settings.mask_absent_classes
        self.alike = strategy.alike and not own
        """Whether every client uses the model that the server sends and nothing of its own"""
        self.losses = LossWatch()
        self.by_batch = by_batch
        self.arrays: ArrayRecord = to_record(initial)

    def run(self) -> None:
        """Plays the rounds that are still to be played, then writes what a finished run leaves behind.

        Errors: ``RoundFailed`` if too many clients fail in one round; everything up to the round before is recorded.
        """
        first = self._restore() + 1
        self.reporter.start(max(first, 1), self.settings.rounds)
        played: _Played | None = None
        for round in range(first, self.settings.rounds + 1):
            previous, played = played, _Played(round, time.monotonic())
            if round > 0:
                self._train(played, previous)
                if previous is not None and previous.asked:
                    self._record(previous)
            self._measure(played)
            played.seconds = time.monotonic() - played.started
            if not played.asked:
                self._record(played)
        personal, states = self.strategy.personal, self._client_states()
        if personal and states is None:
            self.recorder.save_shared(to_tensors(self.arrays), personal)
            return
        model = complete_model(self.initial, self.arrays, personal, states or {})
        pruned = self.strategy.masks, self.strategy.parts
        self.recorder.save_models(self.initial, model, personal, states or {}, *pruned)

    def _train(self, played: "_Played", previous: "_Played | None") -> None:
        """Trains a cohort, which also says what the model of the round before is worth where that is still asked.

        Errors: ``RoundFailed``; what has been told of the round before, and who failed, is written down first.
        """
        try:
            self._train_cohort(played, previous)
        except RoundFailed:
            if previous is not None and previous.asked:
                self._record(previous, whole=False)
            self.recorder.record_clients(fault_rows(played.faults, self.federation, played.round))
            raise

    def _train_cohort(self, played: "_Played", previous: "_Played | None") -> None:
        round, counting = played.round, CountingGrid(self.grid)
        grid = VettedGrid(counting, self.vetting)
        questioned = FaultGrid(grid)  # by a method that has questions before it trains
        messages = list(self.strategy.configure_train(round, self.arrays, ConfigRecord(), questioned))
        played.faults += questioned.faults
        others = self._ask_along(messages, previous)
        clients = [message.metadata.dst_node_id for message in messages]
        costs = self.costs.metrics(self.strategy.workload, clients)  # of these masks: aggregation may change them
        self.reporter.cohort(round, len(messages))
        if self.diagnosis is not None:
            played.updates = self.diagnosis.updates(round, arrays_of(messages[0]))
        evaluations = [message for part in others.values() for message in part]
        replies = iter(grid.send_and_receive([*messages, *evaluations]))
        needed: dict[str, float] = {}

        def observed() -> Iterator[Message]:
            for reply in islice(replies, len(messages)):
                self.reporter.client_done()
                if reply.has_content():
                    if previous is not None:
                        _read_evaluations(reply, previous.measured)
                    for name in (DEVICE_SECONDS, DEVICE_PEAK_MB):
                        value = config_of(reply).get(name)
                        if isinstance(value, float):
                            needed[name] = max(needed.get(name, 0.0), value)
                    if played.updates is not None and MASKS not in reply.content:  # else they have other places
                        played.updates.add(to_tensors(arrays_of(reply)))
                yield reply

        successful = self._successful(observed(), len(messages), played, TRAINING)
        arrays, metrics = self.strategy.aggregate_train(round, successful)
        if arrays is not None:
            self.arrays = arrays
        for part, asked in others.items():
            assert previous is not None
            for ok in self._successful(islice(replies, len(asked)), len(asked), previous, part.name.lower()):
                previous.measured.setdefault(part, {})[ok.metadata.src_node_id] = Measured.from_reply(ok)
        trained = {f"train_{name}": value for name, value in (metrics or MetricRecord()).items()}
        loss = trained.get(TRAINING_LOSS)
        if isinstance(loss, float):
            self.losses.see(round, loss)
        played.row = {
            **trained,
            **costs,
            **needed,
            "bytes_down": counting.bytes_down,
            "bytes_up": counting.bytes_up,
        }

    def _ask_along(self, messages: list[Message], previous: "_Played | None") -> dict[Part, list[Message]]:
        """Lets the cohort evaluate what it is sent, before it trains; the messages to the clients outside of it."""
        if previous is None:
            return {}
        changed: dict[tuple[int, tuple[str, ...]], RecordDict] = {}
        for message in messages:
            client = message.metadata.dst_node_id
            parts = tuple(part.name for part, clients in previous.asked.items() if client in clients)
            if parts:
                config = config_of(message).copy()
                config[EVALUATE_PARTS] = list(parts)
                key = id(message.content), parts  # one for all whose content is one: an engine packs it once
                message.content = changed.setdefault(key, RecordDict({**message.content, CONFIG: config}))
        trained = {message.metadata.dst_node_id for message in messages}
        return {
            part: evaluation_messages(
                self.grid, self.strategy, self.arrays, previous.round, {part: set(clients) - trained}
            )
            for part, clients in previous.asked.items()
        }

    def _successful(
        self, replies: Iterable[Message], expected: int, played: "_Played", doing: str
    ) -> Iterator[Message]:
        """Passes good replies on, names the clients that failed, and ends the round once too few can succeed."""
        failed = 0
        for reply in replies:
            if not reply.has_error():
                yield reply
                continue
            failed += 1
            client, reason = reply.metadata.src_node_id, reply.error.reason or "no reason given"
            summary, _, details = reason.partition("\n")
            played.faults.append((client, doing, summary))
            sentence = f"client {client} failed in round {played.round}: {summary}"
            if details:
                log.info("%s", details)
            if (expected - failed) / expected < self.settings.min_fraction_success:
                raise RoundFailed(
                    f"{sentence} (with it {failed} of {expected} clients failed, and "
                    f"min_fraction_success={self.settings.min_fraction_success:g})"
                )
            log.warning("%s", sentence)

    def _measure(self, played: "_Played") -> None:
        """Evaluates the model that the round has led to, or the part of it that the next round's messages leave."""
        settings, round, personal = self.settings, played.round, self.strategy.personal
        evaluated = round in (0, settings.rounds) or round % settings.evaluate_every == 0
        diagnosed = self.diagnosis is not None and self.diagnosis.due(round)
        if not evaluated and not diagnosed:
            return
        states = self._client_states() if personal else {}
        if states is not None:
            played.states = states
            played.model = complete_model(self.initial, self.arrays, personal, states)

        def successful(replies: Iterable[Message], expected: int) -> Iterator[Message]:
            return self._successful(replies, expected, played, Part.TEST.name.lower())

        if evaluated:
            asked = asked_clients(self.federation, self.alike, by_batch=self.by_batch)
            # Not before the first round, in which a method may prune what it starts from.
            if self.grid.folds_evaluation and 0 < round < settings.rounds:
                played.asked, asked = asked, {}
            played.evaluation = evaluate(
                *(VettedGrid(self.grid, self.vetting), self.strategy, self.federation, played.model, self.arrays),
                *(round, successful, self.alike, asked),
                by_batch=self.by_batch,
            )
        if diagnosed and played.model is not None:  # devices may have stopped telling their part of it
            assert self.diagnosis is not None
            self.recorder.record_diagnostics(
                self.diagnosis.rows(
                    *(round, self.grid, self.strategy, self.arrays, played.model, successful, played.updates)
                )
            )

    def _client_states(self) -> dict[int, RecordDict] | None:
        """What the clients keep; ``None`` where devices do not tell, or tell what can be no part of this model."""
        states = self.grid.client_states()
        if not isinstance(self.grid, LocalGrid):  # which has it from nobody else
            for client, state in (states or {}).items():
                fault = self.vetting.state_fault(state)
                if fault is not None:
                    log.warning("there is no global model for now: of client %d's own part, %s", client, fault)
                    return None
        return states

    def _record(self, played: "_Played", *, whole: bool = True) -> None:
        """Writes a round down, once all is known of it, and makes its checkpoint.

        Of an evaluation that is not ``whole`` there are the rows of the clients that have answered, and no means.
        """
        round, evaluation, metrics = played.round, played.evaluation, Row()
        if evaluation is not None:
            if played.asked:
                evaluation = with_clients(
                    *(evaluation, self.federation, self.alike, played.measured), by_batch=self.by_batch
                )
            self.recorder.record_clients(client_rows(evaluation, self.federation, round))
        if evaluation is not None and whole:
            metrics = round_metrics(evaluation, self.federation) | self.classes.metrics(evaluation)
            metrics |= age_metrics(personal_ages(played.states, round))
            if played.model is not None:
                self.recorder.record_classes(
                    self.classes.rows(
                        *(round, evaluation, self.initial, played.model, self.strategy.personal, played.states)
                    )
                )
        self.recorder.record_clients(fault_rows(played.faults, self.federation, round))
        self.recorder.record_round({"round": round, **metrics, **played.row, "seconds": played.seconds}, self.grid)
        if isinstance(self.grid, LocalGrid) and self._checkpoint_due(round):
            states = self.grid.client_states()
            checkpoint = Checkpoint(round, self.arrays, self.strategy.state(), states, self.recorder.lengths())
            save_checkpoint(self.recorder.checkpoints, checkpoint)
        self.reporter.round_done(round, metrics)

    def _checkpoint_due(self, round: int) -> bool:
        every = self.settings.checkpoint_every
        return every > 0 and (round % every == 0 or round == self.settings.rounds)

    def _restore(self) -> int:
        """Takes up the newest checkpoint of a run that is resumed; returns its round, or -1 for a fresh start.

        Errors: ``UserError`` for a checkpoint or a table that is damaged, or of another number of clients.
        """
        checkpoint = load_checkpoint(self.recorder.checkpoints) if isinstance(self.grid, LocalGrid) else None
        if checkpoint is None or not isinstance(self.grid, LocalGrid):
            self.recorder.go_back_to(-1)
            return -1
        if checkpoint.clients.keys() != set(self.grid.get_node_ids()):
            raise UserError(
                f"{self.recorder.checkpoints} has what {len(checkpoint.clients)} clients have kept, and there are "
                f"{len(self.federation.clients)}: put the data back that the run was begun with, or start a new run."
            )
        self.recorder.go_back_to(checkpoint.round, checkpoint.tables)
        self.arrays = checkpoint.arrays
        self.strategy.load_state(checkpoint.strategy)
        self.grid.restore_client_states(checkpoint.clients)
        for loss in self.recorder.recorded(TRAINING_LOSS):
            self.losses.remember(loss)
        self.recorder.mend_summary(self.grid)
        return checkpoint.round


def _read_evaluations(reply: Message, measured: _ByPart) -> None:
    """Takes out what a client has measured before it trained."""
    for name in [name for name in reply.content.metric_records if name.startswith(EVALUATION)]:
        record = reply.content.metric_records[name]
        del reply.content[name]  # so that a strategy finds the metrics of training alone
        measured.setdefault(Part[name.removeprefix(EVALUATION)], {})[reply.metadata.src_node_id] = (
            Measured.from_metrics(record)
        )
