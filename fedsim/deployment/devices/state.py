"""The client state on a device's disk: it survives when the node's process is killed and started again."""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from flwr.app import RecordDict

from fedsim.core.errors import FileError, UserError
from fedsim.core.files import reading, writing
from fedsim.output.record_files import load_records, save_records

RUN = "run-"
STATE, BEFORE = "state", "before"
AFRESH = "start the node with state-afresh=true in its node-config to begin anew."


@dataclass(frozen=True)
class StateDir:
    """The files ``FOLDER/run-RUN/partition-P.safetensors`` of one run, each written completely or not at all."""

    folder: Path
    run: int
    settings: str
    """The words of the run's command line: a file of other settings is refused"""
    afresh: bool = False
    keep_runs: int = 5

    def load(self, partition: int, training: int | None = None) -> RecordDict:
        """Return the client state of the partition; empty before its first training.

        ``training`` is the round that the client is about to train. If it has trained that round before, because the
        reply was lost, the state from before that training is returned, so that the result is the same again.

        Raises:
            UserError: If the file is damaged or belongs to another run, unless ``afresh``.
        """
        path = self._path(partition)
        if not os.path.lexists(path):  # a link that leads to nothing is a state that is lost, not one to come
            return RecordDict()
        try:
            with reading(path, AFRESH):
                states, words = load_records(path)
                trained = int(words.pop("trained", "-1"))
                if words != self._words(partition):
                    raise ValueError("it belongs to another run, client or settings")
        except UserError:
            if self.afresh:
                return RecordDict()
            raise
        return states.get(BEFORE if training == trained else STATE, RecordDict())

    def save(self, partition: int, state: RecordDict, trained: int = -1, before: RecordDict | None = None) -> None:
        """Write the client state, and in ``before`` the one from before the round ``trained``.

        Raises:
            UserError: If the folder cannot be written.
        """
        path = self._path(partition)
        try:
            if not path.parent.exists():
                with writing(path.parent):
                    path.parent.mkdir(parents=True, mode=0o700)
                    self._prune()
            owners = {STATE: state, BEFORE: before or RecordDict()}
            save_records(path, owners, {**self._words(partition), "trained": str(trained)})
        except FileError as error:
            raise UserError(
                f"state-dir={self.folder} cannot be written ({error.reason}): choose a folder with space that this "
                "node may write to."
            ) from error

    def _prune(self) -> None:
        """Delete the states of the oldest runs."""
        runs = [path for path in self.folder.glob(f"{RUN}*") if path.name.removeprefix(RUN).isdecimal()]
        for path in sorted(runs, key=lambda path: path.stat().st_mtime_ns, reverse=True)[self.keep_runs :]:
            shutil.rmtree(path)

    def _path(self, partition: int) -> Path:
        return self.folder / f"{RUN}{self.run}" / f"partition-{partition}.safetensors"

    def _words(self, partition: int) -> dict[str, str]:
        settings = hashlib.sha256(self.settings.encode()).hexdigest()
        return {"run": str(self.run), "partition": str(partition), "settings": settings}
