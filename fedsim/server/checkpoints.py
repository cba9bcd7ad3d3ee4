"""The checkpoints of a run: when one is written, and how a resumed run goes back to the newest."""

import time

from flwr.app import ArrayRecord

from fedsim.config.resuming import kept_settings, refuse_changes
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.core.files import reading
from fedsim.engines.grid import FederationGrid, LocalGrid
from fedsim.methods.interfaces import ServerStrategy
from fedsim.output.checkpoint import Checkpoint, checkpoint_file, load_checkpoint, remove_others, save_checkpoint
from fedsim.output.recorder import Recorder


class Checkpoints:
    """Writes what a run has reached, and brings the server's parts back to it. Runs on devices have none."""

    def __init__(self, settings: Settings, strategy: ServerStrategy, grid: FederationGrid, recorder: Recorder) -> None:
        self.settings, self.strategy, self.grid, self.recorder = settings, strategy, grid, recorder
        self._kept = kept_settings(settings.to_config())
        self._saved = time.monotonic()
        """When the last one was written, or the run began"""

    def save_if_due(self, round: int, arrays: ArrayRecord) -> None:
        """Write the checkpoint of a round that is recorded.

        Raises:
            FileError: If it cannot be written.
        """
        if not isinstance(self.grid, LocalGrid) or not self._due(round):
            return
        states, lengths = self.grid.client_states(), self.recorder.flushed_lengths()
        checkpoint = Checkpoint(round, arrays, self.strategy.state(), states, lengths, self._kept)
        save_checkpoint(self.recorder.checkpoints, checkpoint, self.settings.checkpoint_keep)
        self._saved = time.monotonic()

    def _due(self, round: int) -> bool:
        every, minutes = self.settings.checkpoint_every, self.settings.checkpoint_minutes
        if minutes is not None and time.monotonic() - self._saved >= 60 * minutes:
            return True
        last = round == self.settings.rounds and (every > 0 or minutes is not None)
        return last or (every > 0 and round % every == 0)

    def newest(self, arrays: ArrayRecord) -> Checkpoint | None:
        """Return the checkpoint from which the run goes on; ``None`` for a new run. Nothing is written.

        Args:
            arrays: The run's first model, whose names and shapes the checkpoint's has to have.

        Raises:
            UserError: If a checkpoint is damaged, or the settings or the number of clients differ.
        """
        checkpoint = load_checkpoint(self.recorder.checkpoints) if isinstance(self.grid, LocalGrid) else None
        if checkpoint is None:
            return None
        refuse_changes(self.recorder.run_dir, checkpoint.settings, self._kept)
        clients = set(self.grid.get_node_ids())
        if checkpoint.clients.keys() != clients:
            raise UserError(
                f"{self.recorder.checkpoints} has what {len(checkpoint.clients)} clients have kept, and there are "
                f"{len(clients)}: put the data back that the run was begun with, or start a new run."
            )
        file = checkpoint_file(self.recorder.checkpoints, checkpoint)
        mine = _shapes(arrays)
        if any(mine.get(name, shape) != shape for name, shape in _shapes(checkpoint.arrays).items()):
            raise UserError(
                f"{file} holds another network than this run's: put back the file that the run has written."
            )
        with reading(file, "put back the file that the run has written"):
            self.strategy.load_state(checkpoint.strategy)
        return checkpoint

    def go_back_to(self, checkpoint: Checkpoint | None) -> None:
        """Let tables and clients go back to a checkpoint, or to the beginning of the run.

        Raises:
            UserError: If a table is damaged.
            FileError: If a file cannot be written.
        """
        if checkpoint is None or not isinstance(self.grid, LocalGrid):
            self.recorder.go_back_to(-1)
            return
        self.recorder.go_back_to(checkpoint.round, checkpoint.tables)
        self.grid.restore_client_states(checkpoint.clients)
        self.recorder.mend_summary(self.grid)
        remove_others(self.recorder.checkpoints, checkpoint.round, self.settings.checkpoint_keep)


def _shapes(arrays: ArrayRecord) -> dict[str, tuple[int, ...]]:
    return {name: tuple(array.shape) for name, array in arrays.items()}
