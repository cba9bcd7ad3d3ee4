"""What a tracker is: the class that each of this room derives from."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fedsim.core.errors import UserError


@dataclass(frozen=True)
class TrackedRun:
    """A run as a tracker is told of it at its beginning, or when it goes on."""

    folder: Path
    """The run directory"""
    settings: Mapping[str, Any]
    """All settings by their names on the command line, as ``strategy.name`` and ``lr``"""
    first_round: int
    """The first round that will be logged: 0, or the one behind the checkpoint from which a run goes on"""
    id: str | None = None
    """What ``start`` returned when the run began, if it goes on"""

    @property
    def name(self) -> str:
        """The end of the run directory's path, as ``2026-11-23/21-04-11``."""
        return "/".join(self.folder.absolute().parts[-2:])


class Tracker:
    """Base class of trackers; any exception of its methods but ``check`` ends the tracking and not the run."""

    name: ClassVar[str]
    """The choice of ``tracker=``, which is also the extra of ``pyproject.toml`` that brings the packages"""
    module: ClassVar[str]
    """What is imported of the package"""

    def check(self) -> None:
        """Import the package.

        Raises:
            UserError: If that fails.
        """
        try:
            self.imported()
        except Exception as error:  # a package that is there may fail in any way where it does not fit others
            reason = " ".join(str(error).split())
            raise UserError(
                f"tracker={self.name} cannot be used ({reason}): install it with pip install -e '.[{self.name}]'."
            ) from error

    def imported(self) -> Any:
        """Return the module, which is imported where a tracker is chosen and nowhere else."""
        return importlib.import_module(self.module)

    def start(self, run: TrackedRun) -> str | None:
        """Begin the tracker's own run, or go on with ``run.id``; return what a resumed run goes on with."""
        raise NotImplementedError

    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        """Log the numbers of a round."""
        raise NotImplementedError

    def finish(self, summary: Mapping[str, float] | None) -> None:
        """End the tracker's run with its final numbers, or with ``None`` if it was stopped or has failed."""
        raise NotImplementedError
