"""The round loop: train a cohort, aggregate, evaluate, record, checkpoint."""

import logging
import time
from collections.abc import Iterable, Iterator

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord

from datasets.federation import Federation
from fedsim.arrays import to_record, to_tensors
from fedsim.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fedsim.classes import ClassTracker
from fedsim.cost import CostTracker
from fedsim.diagnostics.diagnosis import Diagnosis
from fedsim.diagnostics.updates import UpdateStatistics
from fedsim.engines.counting import CountingGrid
from fedsim.engines.grid import FederationGrid, LocalGrid
from fedsim.errors import RoundFailed
from fedsim.evaluation import complete_model, evaluate, personal_ages
from fedsim.messages import arrays_of
from fedsim.method import ServerHalf
from fedsim.metrics import Row, age_metrics, client_rows, round_metrics
from fedsim.norms.policy import NormPolicy
from fedsim.progress import Reporter
from fedsim.recording import Recorder
from fedsim.settings import Settings
from fedsim.tta import adaptation_of

log = logging.getLogger(__name__)


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
    ) -> None:
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
        self.policy = NormPolicy.of(settings.norm, settings.rounds)
        self.adapts = adaptation_of(settings.tta) is not None
        self.arrays: ArrayRecord = to_record(initial)

    def run(self) -> None:
        """Plays the rounds that are still to be played, then writes what a finished run leaves behind.

        Errors: ``RoundFailed`` if too many clients fail in one round; everything up to the round before is recorded.
        """
        first = self._restore() + 1
        self.reporter.start(max(first, 1), self.settings.rounds)
        if first == 0:
            started = time.monotonic()
            self._finish_round(0, {}, None, started)
        for round in range(max(first, 1), self.settings.rounds + 1):
            started = time.monotonic()
            self._finish_round(round, *self._train(round), started)
        states = self.grid.client_states()
        model = complete_model(self.initial, self.arrays, self.strategy.personal, states)
        self.recorder.save_models(self.initial, model, self.strategy.personal, states, self.strategy.masks)

    def _train(self, round: int) -> tuple[Row, UpdateStatistics | None]:
        grid = CountingGrid(self.grid)
        messages = list(self.strategy.configure_train(round, self.arrays, ConfigRecord(), grid))
        self.reporter.cohort(round, len(messages))
        updates = self.diagnosis.updates(round, arrays_of(messages[0])) if self.diagnosis is not None else None

        def observed(replies: Iterable[Message]) -> Iterator[Message]:
            for reply in replies:
                self.reporter.client_done()
                if reply.has_content() and updates is not None:
                    updates.add(to_tensors(arrays_of(reply)))
                yield reply

        replies = self._successful(observed(grid.send_and_receive(messages)), len(messages), round)
        arrays, metrics = self.strategy.aggregate_train(round, replies)
        if arrays is not None:
            self.arrays = arrays
        clients = [message.metadata.dst_node_id for message in messages]
        return {
            **{f"train_{name}": value for name, value in (metrics or MetricRecord()).items()},
            **self.costs.metrics(self.strategy.workload(), clients),
            "bytes_down": grid.bytes_down,
            "bytes_up": grid.bytes_up,
        }, updates

    def _successful(self, replies: Iterable[Message], expected: int, round: int) -> Iterator[Message]:
        """Passes good replies on, names the clients that failed, and ends the round once too few can succeed."""
        failed = 0
        for reply in replies:
            if not reply.has_error():
                yield reply
                continue
            failed += 1
            client, reason = reply.metadata.src_node_id, reply.error.reason or "no reason given"
            summary, _, details = reason.partition("\n")
            sentence = f"client {client} failed in round {round}: {summary}"
            log.info("%s", details)
            if (expected - failed) / expected < self.settings.min_fraction_success:
                raise RoundFailed(
                    f"{sentence} (with it {failed} of {expected} clients failed, and "
                    f"min_fraction_success={self.settings.min_fraction_success:g})"
                )
            log.warning("%s", sentence)

    def _finish_round(self, round: int, row: Row, updates: UpdateStatistics | None, started: float) -> None:
        settings = self.settings
        evaluated = round in (0, settings.rounds) or round % settings.evaluate_every == 0
        diagnosed = self.diagnosis is not None and self.diagnosis.due(round)
        personal = self.strategy.personal
        metrics: Row = {}
        if evaluated or diagnosed:
            states = self.grid.client_states() if personal else {}
            model = complete_model(self.initial, self.arrays, personal, states)

        def successful(replies: Iterable[Message], expected: int) -> Iterator[Message]:
            return self._successful(replies, expected, round)

        if evaluated:
            evaluation = evaluate(
                self.grid,
                self.strategy,
                self.federation,
                model,
                self.arrays,
                round,
                successful,
                alike=not (personal or self.policy.reestimates or self.adapts or settings.mask_absent_classes),
            )
            metrics = round_metrics(evaluation, self.federation) | self.classes.metrics(evaluation)
            metrics |= age_metrics(personal_ages(states, round))
            self.recorder.record_clients(client_rows(evaluation, self.federation, round))
            self.recorder.record_classes(self.classes.rows(round, evaluation, self.initial, model, personal, states))
        if diagnosed:
            assert self.diagnosis is not None
            self.recorder.record_diagnostics(
                self.diagnosis.rows(round, self.grid, self.strategy, self.arrays, model, successful, updates)
            )
        self.recorder.record_round({"round": round, **metrics, **row, "seconds": time.monotonic() - started}, self.grid)
        if isinstance(self.grid, LocalGrid) and self._checkpoint_due(round):
            checkpoint = Checkpoint(round, self.arrays, self.strategy.state(), self.grid.client_states())
            save_checkpoint(self.recorder.checkpoints, checkpoint)
        self.reporter.round_done(round, metrics)

    def _checkpoint_due(self, round: int) -> bool:
        every = self.settings.checkpoint_every
        return every > 0 and (round % every == 0 or round == self.settings.rounds)

    def _restore(self) -> int:
        """Takes up the newest checkpoint of a run that is resumed; returns its round, or -1 for a fresh start."""
        checkpoint = load_checkpoint(self.recorder.checkpoints) if isinstance(self.grid, LocalGrid) else None
        if checkpoint is None or not isinstance(self.grid, LocalGrid):
            self.recorder.go_back_to(-1)
            return -1
        self.arrays = checkpoint.arrays
        self.strategy.load_state(checkpoint.strategy)
        self.grid.restore_client_states(checkpoint.clients)
        self.recorder.go_back_to(checkpoint.round)
        return checkpoint.round
