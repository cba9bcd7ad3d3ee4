"""The round loop: train a cohort, aggregate, evaluate, record, checkpoint."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from datasets.examples import images_of_pass
from datasets.source import Part
from fedsim.core.errors import RoundFailed
from fedsim.core.memory import resident_memory_mb
from fedsim.core.seeding import cohort_size
from fedsim.engines.faulty_grids import AbsentGrid, Attendances, CorruptingGrid
from fedsim.engines.grid import FederationGrid, LocalGrid
from fedsim.engines.grid_wrappers import CountingGrid, FaultGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.compression import buffers_of
from fedsim.messages.groups import ADD_UP
from fedsim.messages.schema import DEVICE_PEAK_MB, DEVICE_SECONDS, arrays_of, config_of, moved_entries
from fedsim.methods.federated_model import FederatedModel
from fedsim.methods.interfaces import Exporting
from fedsim.methods.reply_checks import ReplyChecks
from fedsim.metrics.class_metrics import ClassTracker
from fedsim.metrics.round_metrics import Row, age_metrics, attendance_rows, client_rows, fault_rows, round_metrics
from fedsim.output.model_files import save_models, save_shared
from fedsim.output.progress import Reporter
from fedsim.output.recorder import Recorder
from fedsim.server.checkpoints import Checkpoints
from fedsim.server.evaluation import Evaluator
from fedsim.server.folded_evaluation import FoldedEvaluation
from fedsim.server.loss_watch import LossWatch
from fedsim.server.own_models import OwnModels
from fedsim.server.preparation import Prepared
from fedsim.server.reply_grids import CheckedGrid, DecompressingGrid
from fedsim.server.round import Round

log = logging.getLogger(__name__)

TRAINING = "train"
"""The ``split`` of a fault in training in ``clients.csv``; others have the evaluated part or the name of the query."""
TRAINING_LOSS = "train_loss"
"""The column of ``rounds.csv``."""


class FederatedLoop:
    """One run of one method over one federation on one engine."""

    def __init__(self, prepared: Prepared, grid: FederationGrid, recorder: Recorder, reporter: Reporter) -> None:
        """Make the loop of a new or a resumed run; nothing is written yet.

        Raises:
            UserError: If a resumed run cannot go on from its checkpoint.
        """
        self.settings, self.federation = prepared.settings, prepared.federation
        self.strategy, self.costs, self.diagnosis = prepared.strategy, prepared.costs, prepared.diagnosis
        self.own_models = prepared.own_models
        self.grid = grid
        self.faults, self.attendances = prepared.faults, Attendances()
        self.recorder = recorder
        self.reporter = reporter
        self.initial = {name: tensor.clone() for name, tensor in prepared.model.state_dict().items()}
        self.arrays: ArrayRecord = to_record(self.initial)
        self.exact = buffers_of(prepared.model)
        self.checks = ReplyChecks(
            self.federation,
            self.initial,
            self.settings.update_limit,
            reply_records=self.strategy.reply_records,
            queries=self.strategy.queries,
            metrics=self.settings.metrics,
        )
        self.evaluator = Evaluator(self.strategy, self.federation, prepared.one_model, prepared.by_batch)
        self.classes = ClassTracker(prepared.model, self.federation, self.settings.shots)
        self.losses = LossWatch()
        self.checkpoints = Checkpoints(self.settings, self.strategy, grid, recorder)
        self.checkpoint = self.checkpoints.newest(self.arrays)

    def run(self) -> None:
        """Run the remaining rounds, then write the models and other results of a finished run.

        Raises:
            RoundFailed: If too many clients fail in one round; all rounds before it are recorded.
        """
        first = self._first_round()
        self.recorder.start_tracking(first)
        self.reporter.start(max(first, 1), self.settings.rounds)
        self.reporter.resumed(self.recorder.recorded("client_accuracy_mean"))
        current: Round | None = None
        for number in range(first, self.settings.rounds + 1):
            previous, current = current, Round(number, self.settings.min_fraction_success)
            if number > 0:
                self._train(current, previous)
                if previous is not None and previous.to_ask:
                    self._record(previous)
            self._evaluate(current)
            current.seconds = time.monotonic() - current.started
            if not current.to_ask:
                self._record(current)
        self._save_models()

    def _first_round(self) -> int:
        """Go back to the newest checkpoint of a resumed run, and return the round to go on with; 0 for a new run."""
        checkpoint, self.checkpoint = self.checkpoint, None  # so that its arrays are not kept for the whole run
        self.checkpoints.go_back_to(checkpoint)
        if checkpoint is None:
            return 0
        self.arrays = checkpoint.arrays
        for loss in self.recorder.recorded(TRAINING_LOSS):
            self.losses.remember(loss)
        return checkpoint.round + 1

    def _train(self, current: Round, previous: Round | None) -> None:
        """Train a cohort, and finish the folded evaluation of the previous round's model, if there is one.

        Raises:
            RoundFailed: If too many clients fail; the known results of the previous round and the failures are
                recorded first.
        """
        try:
            self._train_cohort(current, previous)
        except RoundFailed:
            if previous is not None and previous.to_ask:
                self._record(previous, whole=False)
            self.recorder.record_clients(fault_rows(current.faults, self.federation, current.number))
            raise

    def _train_cohort(self, current: Round, previous: Round | None) -> None:
        number, counting = current.number, CountingGrid(self._attended())
        grid = self._checked(counting)
        queried = FaultGrid(grid)  # for queries of a method beside training
        messages = list(self.strategy.configure_train(number, self.arrays, self._training_config(), queried))
        current.faults += queried.faults
        asked_before = len(queried.faults)
        folded = FoldedEvaluation(previous, self.evaluator, messages, self.grid, self.arrays)
        clients = [message.metadata.dst_node_id for message in messages]
        costs = self.costs.metrics(self.strategy.workload, clients)  # aggregation may change the costs
        simulated = self._attend(number, clients)
        self.reporter.cohort(number, len(messages))
        if self.diagnosis is not None:
            current.updates = self.diagnosis.updates(number, arrays_of(messages[0]))
        replies = iter(grid.send_and_receive([*messages, *folded.messages]))
        needed: dict[str, float] = {}

        def observed() -> Iterator[Message]:
            for message, reply in zip(messages, islice(replies, len(messages)), strict=True):
                self.reporter.client_done()
                if reply.has_content():
                    current.images += self._images_trained(message.metadata.dst_node_id)
                    folded.read(reply)
                    for name in (DEVICE_SECONDS, DEVICE_PEAK_MB):
                        value = config_of(reply).get(name)
                        if isinstance(value, float):
                            needed[name] = max(needed.get(name, 0.0), value)
                    if current.updates is not None and not moved_entries(config_of(message)):
                        current.updates.add(to_tensors(arrays_of(reply)))
                yield reply

        successful = current.successful(observed(), len(messages), TRAINING)
        arrays, metrics = self.strategy.aggregate_train(number, successful)
        current.faults += queried.faults[asked_before:]
        if arrays is not None:
            self.arrays = arrays
        folded.read_others(replies)
        trained = {f"train_{name}": value for name, value in (metrics or MetricRecord()).items()}
        loss = trained.get(TRAINING_LOSS)
        if isinstance(loss, float):
            self.losses.see(number, loss)
        transferred = {"bytes_down": counting.bytes_down, "bytes_up": counting.bytes_up}
        current.row = {**trained, **costs, **needed, **simulated, **transferred}

    def _training_config(self) -> ConfigRecord:
        """Return the config of training messages: whether engines may add up replies, which are then not seen here."""
        weighting = self.strategy.added_up_by
        read = self.diagnosis is not None or self.faults is not None or self.settings.compression is not None
        return ConfigRecord({ADD_UP: weighting} if weighting and self.grid.adds_up and not read else {})

    def _checked(self, grid: FederationGrid) -> FederationGrid:
        """Return the grid wrapped so that replies are decompressed, made faulty where this is wanted, and checked."""
        form = self.settings.compression
        if form is not None:
            grid = DecompressingGrid(grid, form, self.exact)
        if self.faults is not None:
            grid = CorruptingGrid(grid, self.faults, self.attendances)
        return CheckedGrid(grid, self.checks)

    def _attended(self) -> FederationGrid:
        """Return the grid wrapped, where this is wanted, so that some clients do not answer."""
        return self.grid if self.faults is None else AbsentGrid(self.grid, self.faults, self.attendances)

    def _attend(self, number: int, clients: Sequence[int]) -> Row:
        """Decide what becomes of each client of a cohort, and record it; return the simulated time of the round."""
        if self.faults is None:
            return {}
        needed = cohort_size(len(self.federation.clients), self.settings.fraction)
        images = {client: self._images_trained(client) for client in clients}
        self.attendances.clear()
        self.attendances.update(self.faults.attendance(number, images, needed))
        self.recorder.record_participation(attendance_rows(self.attendances, images, number))
        return {"simulated_seconds": self.faults.round_seconds(self.attendances)}

    def _images_trained(self, client: int) -> int:
        images, settings = self.federation.num_images(client, Part.TRAIN), self.settings
        return settings.local_epochs * images_of_pass(images, settings.batch_size, drop_last=settings.drop_last)

    def _evaluate(self, current: Round) -> None:
        """Evaluate and diagnose the model after the round, if due; without what is folded into the next round."""
        settings, number = self.settings, current.number
        evaluated = number in (0, settings.rounds) or number % settings.evaluate_every == 0
        diagnosed = self.diagnosis is not None and self.diagnosis.due(number)
        if not evaluated and not diagnosed:
            return
        current.model = self._federated_model()
        if evaluated:
            asked = self.evaluator.clients_to_ask()
            # Round 0 is not folded into round 1, in which a method may change the initial model.
            if self.grid.folds_evaluation and 0 < number < settings.rounds:
                current.to_ask, asked = asked, {}
            current.evaluation = self.evaluator.evaluate(
                self._checked(self.grid), number, current.model, asked, current.successful_tests
            )
        if diagnosed and current.model.known:  # devices may no longer send their personal part
            assert self.diagnosis is not None
            rows = self.diagnosis.rows(
                number, self.grid, self.strategy, current.model, current.successful_tests, current.updates
            )
            self.recorder.record_diagnostics(rows)

    def _federated_model(self) -> FederatedModel:
        personal = self.strategy.personal
        return FederatedModel(self.initial, self.arrays, personal, self._client_states() if personal else {})

    def _client_states(self) -> Mapping[int, RecordDict] | None:
        """Return the client states; ``None`` if devices do not send them, or one of them is invalid."""
        states = self.grid.client_states()
        if not isinstance(self.grid, LocalGrid):  # whose states never left this machine
            for client, state in (states or {}).items():
                fault = self.checks.state_fault(state)
                if fault is not None:
                    log.warning("there is no global model for now: of client %d's own part, %s", client, fault)
                    return None
        return states

    def _record(self, done: Round, *, whole: bool = True) -> None:
        """Record a round once its results are complete, and save its checkpoint.

        If the evaluation is not ``whole``, only rows of the clients that have replied are written, and no means.
        """
        number, evaluation, metrics = done.number, done.evaluation, Row()
        if evaluation is not None:
            if done.to_ask:
                evaluation = self.evaluator.with_clients(evaluation, done.measured)
            self.recorder.record_clients(client_rows(evaluation, self.federation, number))
        if evaluation is not None and whole:
            assert done.model is not None
            metrics = round_metrics(evaluation, self.federation) | self.classes.metrics(evaluation)
            metrics |= age_metrics(done.model.ages(number))
            if done.model.known:
                self.recorder.record_classes(self.classes.rows(number, evaluation, done.model))
        self.recorder.record_clients(fault_rows(done.faults, self.federation, number))
        self.recorder.record_round({"round": number, **metrics, **done.row, "seconds": done.seconds}, self.grid)
        self.checkpoints.save_if_due(number, self.arrays)
        self.reporter.round_done(number, {**metrics, **self._work(done)})

    def _work(self, done: Round) -> Row:
        """Return how fast clients have trained in the round, and the memory of the run now."""
        work: Row = {"memory_mb": resident_memory_mb() + self.grid.memory_mb()}
        if done.images and done.seconds > 0:
            work["images_per_second"] = done.images / done.seconds
        return work

    def _save_models(self) -> None:
        model = FederatedModel(self.initial, self.arrays, self.strategy.personal, self._client_states())
        if not model.known:
            save_shared(self.recorder.run_dir, model)
            return
        if self.own_models:
            OwnModels.of(self.settings, self.federation, self.strategy, self.grid, model).save(self.recorder.run_dir)
        else:
            save_models(self.recorder.run_dir, model)
        if isinstance(self.strategy, Exporting):
            self.strategy.export(self.recorder.run_dir, model.complete)
