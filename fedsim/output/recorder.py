"""The run directory: the files of a run, consistent at every moment at which it could be stopped."""

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from datasets.federation import Federation
from fedsim.config.composition import repeatable
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.core.files import reading, write_atomically, write_new, writing
from fedsim.core.memory import peak_memory_mb
from fedsim.core.run_files import PAGE, SUMMARY
from fedsim.cost import device_classes
from fedsim.engines.grid import FederationGrid
from fedsim.metrics.round_metrics import Row, best_row, evaluated, nested
from fedsim.output.federation_table import FILE as FEDERATION
from fedsim.output.federation_table import clients_table
from fedsim.output.provenance import FILE as PROVENANCE
from fedsim.output.provenance import commit, versions
from fedsim.output.results import NEEDED, read_summary
from fedsim.output.run_directory import already_holds_a_run, check_resumed_dir, check_run_dir
from fedsim.output.tables import Table
from fedsim.trackers.tracking import FILE as TRACKERS
from fedsim.trackers.tracking import Tracking

log = logging.getLogger(__name__)

PER_ROUND = ("train_", "seconds", "simulated_", "bytes_", "device_")
"""Beginnings of the columns of ``rounds.csv`` that describe the round and not its model."""


class Recorder:
    """Writes ``config.yaml``, the tables and ``summary.json``, and tells the trackers of them."""

    def __init__(self, run_dir: Path, settings: Settings, tracking: Tracking | None = None) -> None:
        self.run_dir = run_dir
        self.settings = settings
        self._tracking = Tracking() if tracking is None else tracking
        self.checkpoints = run_dir / "checkpoints"
        self._config = run_dir / "config.yaml"
        self._new = False
        self._clients = _table(run_dir / "clients.csv")
        self._rounds = _table(run_dir / "rounds.csv")
        self._classes = _table(run_dir / "classes.csv")
        self._diagnostics = _table(run_dir / "diagnostics.csv")
        self._participation = _table(run_dir / "participation.csv")
        self._rows: list[Row] = []

    def open(self) -> None:
        """Make the directory of a new run and write its configuration; a resumed run's is only looked at.

        Raises:
            UserError: If it cannot be written, or already holds a run that is not being resumed.
            FileError: If the configuration cannot be written.
        """
        if self.settings.resume is None:
            check_run_dir(self.run_dir)
            try:
                write_new(self._config, self._write_config)  # if two runs start at once, only one succeeds
            except FileExistsError as error:
                raise already_holds_a_run(self.run_dir) from error
            self._new = True
        else:
            check_resumed_dir(self.run_dir)

    def _expect_more_rounds(self) -> None:
        """Let a run that is given more rounds be unfinished from now on, before its next evaluation.

        Raises:
            FileError: If ``summary.json`` cannot be written, or the page of the shorter run cannot be removed.
        """
        path = self.run_dir / SUMMARY
        with suppress(UserError):  # one that is missing or damaged is written anew
            summary = read_summary(path)
            if summary["rounds"] != self.settings.rounds:
                with writing(self.run_dir):
                    (self.run_dir / PAGE).unlink(missing_ok=True)
                _write_json(path, {**summary, "rounds": self.settings.rounds})

    def _write_config(self, path: Path) -> None:
        OmegaConf.save(repeatable(self.settings.to_config()), path)

    def take_back(self) -> None:
        """Tell the trackers of a run that has failed or was stopped; restore the directory if nothing was recorded."""
        self._tracking.finish(None)
        recorded = ("clients.csv", "rounds.csv", "checkpoints")
        if self._new and not any((self.run_dir / name).exists() for name in recorded):
            for name in (self._config.name, PROVENANCE, FEDERATION, TRACKERS):
                with suppress(OSError):  # the first error is the one to report
                    (self.run_dir / name).unlink(missing_ok=True)

    @property
    def _tables(self) -> tuple[Table, ...]:
        return self._clients, self._rounds, self._classes, self._diagnostics, self._participation

    def flushed_lengths(self) -> dict[str, int]:
        """Flush the tables to the disk; return how many rows each has, by the name of its file.

        A checkpoint that survives a power cut needs the rows that were written before it.

        Raises:
            FileError: If that fails.
        """
        for table in self._tables:
            table.flush()
        return {table.path.name: table.length for table in self._tables}

    def go_back_to(self, round: int, lengths: Mapping[str, int] | None = None) -> None:
        """Drop the rounds after a checkpoint's, at which the tables had these ``lengths``.

        Of a resumed run the configuration is written before, with the rounds that it may have been given.

        Raises:
            UserError: If a table is not what was written up to then; nothing is dropped or written in that case.
            FileError: If a file cannot be written.
        """
        kept = {table: table.until(round) for table in self._tables}
        for table, rows in kept.items():
            length = (lengths or {}).get(table.path.name, len(rows))
            if len(rows) != length:
                raise UserError(
                    f"{table.path} has {len(rows)} rows up to round {round}, and had {length} when its checkpoint was "
                    "written: put the whole file back, or start a new run."
                )
        with reading(self._rounds.path):
            self._rows = [{name: _number(value) for name, value in row.items()} for row in kept[self._rounds]]
        if self.settings.resume is not None:
            self._expect_more_rounds()
            write_atomically(self._config, self._write_config)
        for table, rows in kept.items():
            table.keep(rows)

    def mend_summary(self, grid: FederationGrid) -> None:
        """Rewrite ``summary.json`` of a resumed run where it is damaged: its content is computed from the tables."""
        try:
            read_summary(self.run_dir / SUMMARY)
        except UserError as error:
            log.warning("%s It is written anew.", error)
            self._write_summary(grid)

    def start_tracking(self, first_round: int) -> None:
        """Tell the trackers that the run begins with a round, or goes on with it.

        Raises:
            UserError: If what they left in the run directory is damaged.
            FileError: If what they leave there cannot be written.
        """
        self._tracking.start(self.run_dir, self.settings.to_config(), first_round)

    def finish_tracking(self) -> None:
        """Tell the trackers how the run has ended."""
        self._tracking.finish(read_summary(self.run_dir / SUMMARY))

    def recorded(self, column: str) -> list[float]:
        """Return the numbers in a column of ``rounds.csv``, from the rounds that have one."""
        return [row[column] for row in self._rows if row.get(column) is not None]

    def record_federation(self, federation: Federation) -> None:
        """Write ``federation.csv``, where the server knows what the clients hold.

        Raises:
            FileError: If it cannot be written.
        """
        if not federation.on_devices:
            table = clients_table(federation)
            path = self.run_dir / FEDERATION
            write_atomically(path, lambda temporary: table.to_csv(temporary, index=False, encoding="utf-8"))

    def record_clients(self, rows: list[Row]) -> None:
        self._clients.append(rows)
        self._tracking.clients(rows)

    def record_classes(self, rows: list[Row]) -> None:
        self._classes.append(rows)

    def record_diagnostics(self, rows: list[Row]) -> None:
        self._diagnostics.append(rows)

    def record_participation(self, rows: list[Row]) -> None:
        self._participation.append(rows)

    def record_round(self, row: Row, grid: FederationGrid) -> None:
        self._rows.append(row)
        self._rounds.append([row])
        if evaluated([row]):
            self._write_summary(grid)
        self._tracking.round(row)

    def _device_classes(self, grid: FederationGrid) -> dict[str, dict[str, list[int]]]:
        """Return which clients are in which class of devices; empty where there are no classes."""
        settings = self.settings
        classes = device_classes(settings.budget, sorted(grid.get_node_ids()), settings.seeds.split)
        members = {each.name: list(each.clients) for each in classes if each.name}
        return {"device_classes": members} if members else {}

    def _write_summary(self, grid: FederationGrid) -> None:
        done = [row for row in self._rows if row.get("seconds") is not None]
        summary = {
            "strategy": self.settings.strategy["name"],
            "norm": self.settings.norm["name"],
            "model": self.settings.model["name"],
            "dataset": self.settings.dataset["name"],
            "seed": self.settings.seed,
            "rounds": self.settings.rounds,
            "seconds": sum(row["seconds"] for row in done),
            "peak_memory_mb": peak_memory_mb() + grid.peak_memory_mb(),
            "bytes_up": int(sum(row.get("bytes_up") or 0 for row in done)),
            "bytes_down": int(sum(row.get("bytes_down") or 0 for row in done)),
            "versions": versions(),
            "commit": commit(),
            **self._device_classes(grid),
            "final": _model_part(evaluated(self._rows)[-1]),
            "best": _model_part(best_row(self._rows)),
        }
        _write_json(self.run_dir / SUMMARY, summary)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _table(path: Path) -> Table:
    return Table(path, NEEDED[path.name])


def _model_part(row: Row) -> Row:
    return nested({name: value for name, value in row.items() if not name.startswith(PER_ROUND) and value is not None})


def _number(text: str) -> int | float | None:
    if not text:
        return None
    return int(text) if text.isdecimal() else float(text)
