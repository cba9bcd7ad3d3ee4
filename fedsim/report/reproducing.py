"""The runs of a published table: ``python -m fedsim.reproduce fedwon_digits5 data_dir=IMAGES --seeds 0,1,2``.

An experiment with ``published:`` names the words of each row of its table. The rows are run, all with the first seed,
then all with the next, and what is finished is written beside what is published: *published*, *ours*, *difference*. The
same command goes on where it was stopped, by Ctrl-C or after ``--minutes``, and runs nothing twice.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from fedsim.app.sweep import is_begun
from fedsim.config.composition import choices, compose
from fedsim.config.overrides import parse, readable
from fedsim.config.paths import expanded
from fedsim.config.published import Published, Row
from fedsim.config.run_folders import only_if_used
from fedsim.core.errors import INTERRUPTED, FedsimError, UserError
from fedsim.core.files import writing
from fedsim.output.terminal import never_fail_to_print, print_line, print_whole
from fedsim.report.comparison import write_comparison
from fedsim.report.labels import group_by_settings
from fedsim.report.planned_runs import Made, PlannedRun, ended_after, folder_name, make_all, told_failures
from fedsim.report.seeds import read_seeds

A_YEAR = 60 * 24 * 365
"""In minutes"""
LEFT = 3
"""Exit status when time was up before all runs were made"""
INSTEAD = {
    "experiment": "the experiment by the first word",
    "seed": "seeds by --seeds 0,1,2",
    "out_dir": "the folder by --out FOLDER",
    "resume": "the same command, which goes on by itself",
    "published": "another experiment",
}
"""What to choose instead of a setting that this command sets itself."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fedsim.reproduce", description=__doc__.partition("\n")[0])
    parser.add_argument("experiment", help="a file of configs/experiment with a published table")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of all runs, such as data_dir=IMAGES")
    parser.add_argument("--rows", nargs="+", default=[], metavar="WORD", help="only rows with all of these words")
    parser.add_argument("--list", action="store_true", help="show the rows and end")
    parser.add_argument("--seeds", default="0", help="the seeds of each row: 0,1,2 (default: 0)")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes; the same command goes on")
    parser.add_argument("--out", help="where everything goes (default: outputs/EXPERIMENT)")
    options = parser.parse_intermixed_args(arguments)
    never_fail_to_print()
    try:
        experiment = options.experiment.removeprefix("experiment=")
        published = published_by(experiment)
        rows = rows_with(published, options.rows)
        if options.list:
            print_whole(_listed(published, rows))
            return 0
        out = Path(expanded("--out", options.out or f"outputs/{experiment}"))
        refuse_settings(options.settings, rows)
        runs = planned(experiment, rows, read_seeds(options.seeds), options.settings, out)
        minutes, made = _possible(options.minutes), Made.before(runs)
        try:
            with only_if_used(out), ended_after(minutes):
                with writing(out):
                    out.mkdir(parents=True, exist_ok=True)
                _try_all(runs)
                make_all(runs, made, keep_going=True)
        except KeyboardInterrupt:
            _told(runs, made, out)
            return INTERRUPTED
        return _told(runs, made, out)
    except FedsimError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("stopped; what was recorded is intact", file=sys.stderr)
        return INTERRUPTED


def published_by(experiment: str) -> Published:
    """Return the published table of an experiment.

    Raises:
        UserError: If there is no such experiment, or it has no table.
    """
    entry = compose([f"experiment={experiment}"]).get("published")
    if entry is None:
        having = [name for name in choices("experiment") if compose([f"experiment={name}"]).get("published")]
        raise UserError(f"experiment={experiment} has no published table: choose {', '.join(having)}.")
    return Published.read(entry)


def rows_with(published: Published, words: Sequence[str]) -> list[Row]:
    """Return the rows that have all of these words; of a row that has no others, only this one.

    Raises:
        UserError: If none has.
    """
    rows = [row for row in published.rows if set(words) <= set(row.run.split())]
    rows = [row for row in rows if set(words) == set(row.run.split())] or rows
    if not rows:
        raise UserError(
            f"--rows {' '.join(words)} is not possible: no row of {published.table} has these words; choose from those "
            "that --list shows, and write settings of all runs before --rows."
        )
    return rows


def refuse_settings(settings: Sequence[str], rows: Sequence[Row]) -> None:
    """Refuse settings of all runs that say something else than the rows, or what an option of the command says.

    Raises:
        UserError: If there is one.
    """
    in_rows = {key for row in rows for key in row.words}
    for text in settings:
        override = parse(readable(text))
        key = override.get_key_element().lstrip("+~")
        if override.is_sweep_override():
            raise UserError(f"{text} names several values, and the rows are what is compared: choose one.")
        if key in INSTEAD:
            raise UserError(f"{text} is not possible: choose {INSTEAD[key]}.")
        if key in in_rows:
            raise UserError(f"{text} is not possible, since rows differ in {key}: choose rows by --rows WORD.")


def planned(
    experiment: str, rows: Sequence[Row], seeds: Sequence[int], settings: Sequence[str], out: Path
) -> list[PlannedRun]:
    """Return the runs of the rows with each seed, the first seed first.

    Raises:
        UserError: If a setting is wrong, or a folder holds a run with other settings.
    """
    from fedsim.config.settings import settings_of  # loads torch and Flower, which a list does not need

    runs = []
    for seed in seeds:
        for row in rows:
            run_dir = out / "runs" / folder_name(row.run) / str(seed)
            words = [f"experiment={experiment}", *row.run.split(), *settings, f"seed={seed}"]
            runs.append(PlannedRun(row.run, seed, run_dir, settings_of(compose(words), words)))
            runs[-1].check()
    return runs


def _possible(minutes: float | None) -> float | None:
    if minutes is not None and not 0 < minutes <= A_YEAR:
        raise UserError(f"--minutes={minutes} is not possible: choose a number above 0, and at most {A_YEAR}.")
    return minutes


def _try_all(runs: Sequence[PlannedRun]) -> None:
    """Try the settings of every row that is not begun, before anything starts.

    Raises:
        UserError: If a row cannot be run.
    """
    from fedsim.server.preparation import prepare

    tried = {each.label for each in runs if is_begun(each.run_dir)}
    for each in runs:
        if each.label in tried:
            continue
        tried.add(each.label)
        try:
            prepare(each.settings)
        except UserError as error:
            raise UserError(f"the row {each.label} cannot be run: {error}") from error


def _listed(published: Published, rows: Sequence[Row]) -> Table:
    shown = Table(title=published.table, box=SIMPLE_HEAD)
    shown.add_column("row")
    shown.add_column("published (%)", justify="right")
    for row in rows:
        shown.add_row(row.run, ", ".join(f"{head} {accuracy}" for head, accuracy in row.accuracies.items()))
    return shown


def _told(runs: Sequence[PlannedRun], made: Made, out: Path) -> int:
    """Write what is finished, say what is not, and return the exit status."""
    finished = [result for result in made.results if result is not None]
    if finished:
        write_comparison(group_by_settings(finished), out)
    status = told_failures(made)
    left = len(runs) - len(finished) - len(made.failures)
    if left:
        print_line(f"{left} of {len(runs)} runs are left: the same command goes on")
        return LEFT
    return status
