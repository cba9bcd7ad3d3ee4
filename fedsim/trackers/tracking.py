"""The trackers of one run: they are told of it together, and none of them can end it."""

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedsim.config.binding import bind, locate, refuse_unused_options
from fedsim.core.files import reading, write_atomically
from fedsim.core.nested import flattened
from fedsim.trackers.tracker import TrackedRun, Tracker

log = logging.getLogger(__name__)

FILE = "trackers.json"
"""In the run directory: by tracker, what a resumed run goes on with."""
STRUCTURE = ("name", "trackers")
"""The entries of the group that are not options: the second names the classes."""
ACCURACY = "clients/{client}/accuracy"


def trackers_of(options: Mapping[str, Any]) -> list[Tracker]:
    """Return the trackers that the group ``tracker`` names, each with those of its options that it takes.

    Raises:
        UserError: If an option is wrong, or the package of a tracker cannot be imported.
    """
    named: Mapping[str, str] = options.get("trackers") or {}
    factories = [locate("tracker", f"trackers.{name}", target) for name, target in named.items()]
    refuse_unused_options("tracker", options, factories, STRUCTURE)
    trackers: list[Tracker] = [bind("tracker", options, factory) for factory in factories]
    for each in trackers:
        each.check()
    return trackers


class Tracking:
    """Tells every tracker what happens in a run; one that fails is told nothing more, with a warning."""

    def __init__(self, trackers: Iterable[Tracker] = ()) -> None:
        self._chosen, self._trackers = list(trackers), list[Tracker]()
        self._accuracies: dict[str, float] = {}

    def start(self, folder: Path, settings: Mapping[str, Any], first_round: int) -> None:
        """Begin, or go on where the run directory has what a tracker left there.

        Raises:
            UserError: If that file is damaged.
            FileError: If it cannot be written.
        """
        if not self._chosen:
            return
        self._trackers = self._chosen
        run, ids = TrackedRun(folder, flattened(settings), first_round), _read(folder / FILE)

        def start(tracker: Tracker) -> None:
            found = tracker.start(replace(run, id=ids.get(tracker.name)))
            if found is not None:
                ids[tracker.name] = found

        self._tell(start)
        text = json.dumps(ids) + "\n"
        write_atomically(folder / FILE, lambda path: path.write_text(text, encoding="utf-8"))

    def clients(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take rows of ``clients.csv``; the accuracies on test images are logged with the round."""
        for row in rows:
            if row.get("split") == "test" and row.get("accuracy") is not None:
                self._accuracies[ACCURACY.format(client=row["client"])] = float(row["accuracy"])

    def round(self, row: Mapping[str, Any]) -> None:
        """Log a row of ``rounds.csv``, under the names of its columns, and the accuracies of its clients."""
        number, metrics = int(row["round"]), {**numbers(row), **self._accuracies}
        del metrics["round"]
        self._accuracies = {}
        self._tell(lambda tracker: tracker.log(number, metrics))

    def finish(self, summary: Mapping[str, Any] | None) -> None:
        """End with the numbers of ``summary.json``, or with ``None`` where there is none to come.

        Their names begin with ``summary.``, since some of them, such as ``seconds``, are also columns of rounds.
        """
        final = None if summary is None else numbers(flattened(summary, "summary."))
        self._tell(lambda tracker: tracker.finish(final))
        self._trackers = []

    def _tell(self, event: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                event(tracker)
            except Exception as error:  # whatever a package of others raises, the run is worth more
                self._trackers.remove(tracker)
                with suppress(Exception):  # else its run would be shown as one that goes on, for ever
                    tracker.finish(None)
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                log.warning("tracker=%s has failed and is told nothing more of this run (%s)", tracker.name, reason)


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the entries that are numbers."""
    return {
        name: float(value)
        for name, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _read(path: Path) -> dict[str, str]:
    if not os.path.lexists(path):
        return {}
    with reading(path, "remove it, and trackers begin new runs"):
        return {str(name): str(value) for name, value in json.loads(path.read_text(encoding="utf-8")).items()}
