"""Hyperparameters chosen on validation images: ``python -m fedsim.tune SWEEP --seeds 3,4,5,6,7``.

SWEEP holds the runs of a sweep over hyperparameters with ``split.validation`` above 0. Runs that differ only in the
tuned settings and the seed are one method. For each method, the values with the highest mean validation accuracy over
the seeds after the last round are chosen, of equal ones the smaller. With ``--seeds`` they are run on further seeds,
and the tables and pictures of *those* runs' test accuracy are written. Every method must have had the same budget,
which is printed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from fedsim.config.composition import GROUPS
from fedsim.config.paths import expanded
from fedsim.core.errors import INTERRUPTED, FedsimError, UserError
from fedsim.core.files import write_atomically, writing
from fedsim.metrics.round_metrics import VALIDATION
from fedsim.output.results import Result, find_runs
from fedsim.output.terminal import never_fail_to_print, print_line, print_whole
from fedsim.report.choice import Choice, choose, point
from fedsim.report.comparison import write_comparison
from fedsim.report.further_seeds import further_runs
from fedsim.report.labels import compared_settings, group_by_settings
from fedsim.report.planned_runs import PlannedRun, make_all, told_failures
from fedsim.report.plots import plot_tuning
from fedsim.report.seeds import read_seeds

TESTS = "test"
"""The folder of the runs on further seeds"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fedsim.tune", description=__doc__.partition("\n")[0])
    parser.add_argument("sweeps", nargs="+", help="run directories, or folders with run directories below")
    parser.add_argument("--over", default="lr", help="the tuned settings, with commas between them (default: lr)")
    parser.add_argument("--seeds", default="", help="further seeds to run the chosen settings on: 3,4,5")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of those runs alone")
    parser.add_argument("--out", help="where everything goes (default: the first folder)")
    options = parser.parse_args(arguments)
    never_fail_to_print()
    try:
        folders = [Path(expanded("the folder", each)) for each in options.sweeps]
        out = folders[0] if options.out is None else Path(expanded("--out", options.out))
        keys = _tuned(options.over)
        inside = (out / TESTS).resolve()  # resolved, as the runs' directories are
        table = tuning_table(find_runs(folders, besides=inside), keys)
        choices = choose(table, keys)
        seeds = _further_seeds(options.seeds, table)
        _refuse_overrides(options.set, keys)
        runs = further_runs(choices, seeds, options.set, out / TESTS)
        print_whole(render(choices))
        print_line(f"budget of each method: {choices[0].budget}")
        if table["failed"].any():
            print_line(
                f"{table['failed'].sum()} runs failed before their last round and count as 0: {_which(table, keys)}"
            )
        for line in _edges(choices):
            print_line(line)
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        rows = table.drop(columns="run")
        write_atomically(out / "tuning.csv", lambda path: rows.to_csv(path, index=False, encoding="utf-8"))
        plot_tuning(table, keys[0], {each.method: each.values[keys[0]] for each in choices}, out / "tuning.png")
        print_line(f"written to {out}: tuning.csv, tuning.png")
        if any(each.settings.split.get("validation") for each in runs):
            print_line(
                "validation images stay held out of the runs on further seeds: --set split.validation=0 trains on them"
            )
        if runs:
            return _further(runs, out)
    except FedsimError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("stopped; what was recorded is intact, and the same command goes on", file=sys.stderr)
        return INTERRUPTED
    return 0


def _further(runs: Sequence[PlannedRun], out: Path) -> int:
    """Make the runs on further seeds, compare those that came to their end, and return the exit status."""
    made = make_all(runs, keep_going=True)  # one that diverges leaves the others
    groups: dict[str, list[Result]] = {}
    for each, result in zip(runs, made.results, strict=True):
        if result is not None:
            groups.setdefault(each.label, []).append(result)
    if groups:
        write_comparison(groups, out)
    return told_failures(made)


def _tuned(text: str) -> list[str]:
    """Return the settings of ``--over``.

    Raises:
        UserError: If one is no setting that is chosen by validation.
    """
    keys = text.split(",")
    for key in keys:
        if key in ("rounds", "seed") or key.endswith(".name"):
            raise UserError(
                f"--over={text} is not possible: {key} is not chosen by validation images; choose settings such as lr."
            )
    return keys


def tuning_table(runs: Sequence[Result], keys: Sequence[str]) -> pd.DataFrame:
    """Return a row for each run: method, the tuned keys, seed, rounds, validation, whether it failed, and the run.

    ``validation`` is the mean accuracy over clients after the last round, from 0 to 1. A run that ended because clients
    failed, as they do when their model is no longer finite, has a validation accuracy of 0.

    Raises:
        UserError: If there is no run, or one has no validation images, was stopped, or lacks a key.
    """
    if not runs:
        raise UserError("there are no runs of a sweep, but for those on further seeds: name the folder of the sweep.")
    rows = []
    for method, members in group_by_settings(list(runs), besides=keys).items():
        for run in members:
            settings, final = compared_settings(run), run.summary["final"]
            if VALIDATION not in final:
                raise UserError(
                    f"{run.run_dir} has no validation images to choose by: run the sweep with split.validation=0.2."
                )
            finished = final["round"] == run.summary["rounds"]
            if not finished and not _failed(run):
                raise UserError(
                    f"{run.run_dir} was stopped in round {final['round']}: go on with resume={run.run_dir}."
                )
            lists = [key for key in keys if isinstance(settings.get(key), list)]
            if lists:
                raise UserError(f"--over={','.join(keys)} is not possible: {lists[0]} is a list; choose others.")
            missing = [key for key in keys if key not in settings]
            if missing:
                raise UserError(
                    f"--over={','.join(keys)} is not possible: {run.run_dir} has no setting {missing[0]}; choose "
                    "settings that all runs have."
                )
            rows.append(
                {
                    "method": method,
                    **{key: "null" if settings[key] is None else settings[key] for key in keys},
                    "seed": run.summary["seed"],
                    "rounds": run.summary["rounds"],
                    "validation": final[VALIDATION] if finished else 0.0,
                    "failed": not finished,
                    "run": run,
                }
            )
    return pd.DataFrame(rows)


def _failed(run: Result) -> str:
    """Return what a client failed with in the round that the run did not finish; empty if none has."""
    if "fault" not in run.clients:
        return ""
    faults = run.clients[run.clients["fault"].fillna("") != ""]
    last = faults[faults["round"] > run.rounds["round"].max()]["fault"]
    return str(last.iloc[0]) if len(last) else ""


def render(choices: Sequence[Choice]) -> Table:
    """Return a table of the chosen settings of each method, with their validation accuracies."""
    shown = Table(title="chosen by validation accuracy (%)", box=SIMPLE_HEAD)
    shown.add_column("")
    shown.add_column("chosen")
    shown.add_column("validation", justify="right")
    for each in choices:
        deviation = "" if np.isnan(each.deviation) else f" ± {100 * each.deviation:.1f}"
        shown.add_row(each.method, each.written, f"{100 * each.validation:.1f}{deviation}")
    return shown


def _which(table: pd.DataFrame, keys: Sequence[str]) -> str:
    failed = table[table["failed"]]
    told = [
        f"{row['method']} {point(keys, [row[key] for key in keys])} ({_failed(row['run'])})"
        for _, row in failed.iterrows()
    ]
    return ", ".join(dict.fromkeys(told))


def _edges(choices: Sequence[Choice]) -> list[str]:
    return [
        f"{each.method}: {key}={each.values[key]} is at the edge of what was tried, and a better one may lie beyond it"
        for each in choices
        for key in each.edges
    ]


def _further_seeds(text: str, table: pd.DataFrame) -> list[int]:
    """Return the seeds of ``--seeds``.

    Raises:
        UserError: If the text is no list of different seeds, or the choice was made with one of them.
    """
    if not text:
        return []
    seeds = read_seeds(text)
    used = sorted(set(seeds) & set(table["seed"]))
    if used:
        raise UserError(
            f"--seeds={text} has the seed {used[0]}, which the settings were chosen with: choose others than "
            f"{', '.join(map(str, sorted(set(table['seed']))))}."
        )
    return seeds


def _refuse_overrides(overrides: Sequence[str], keys: Sequence[str]) -> None:
    for text in overrides:
        if (key := text.partition("=")[0]) in keys:
            raise UserError(f"--set {text} is not possible: {key} is what was tuned; leave it out.")
        if key.endswith((".name", "._target_")):
            raise UserError(f"--set {text} is not possible: it is what a choice is called; leave it out.")
        if key in ("seed", "out_dir", "resume"):
            raise UserError(f"--set {text} is not possible: choose seeds by --seeds, and a folder by --out.")
        if key in GROUPS:
            raise UserError(
                f"--set {text} is not possible: runs on further seeds have the same {key}; choose settings other "
                f"than {', '.join(GROUPS)}."
            )
