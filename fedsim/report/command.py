"""Tables and pictures of one run or many: ``python -m fedsim.report multirun/2026-11-23/21-04-11``.

Runs that differ only in their seed are one row, *mean ± standard deviation* (sample formula) over the seeds.
"""

import argparse
import sys
from pathlib import Path

from fedsim.config.paths import expanded
from fedsim.core.errors import FedsimError
from fedsim.output.results import find_runs
from fedsim.output.terminal import never_fail_to_print
from fedsim.report.comparison import write_comparison
from fedsim.report.labels import group_by_settings


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fedsim.report", description="Tables and pictures of runs.")
    parser.add_argument("folders", nargs="+", help="run directories, or folders with run directories below")
    parser.add_argument("--out", help="where table and pictures go (default: the first folder)")
    options = parser.parse_args(arguments)
    never_fail_to_print()
    try:
        folders = [Path(expanded("the folder", each)) for each in options.folders]
        _compare(folders, folders[0] if options.out is None else Path(expanded("--out", options.out)))
    except FedsimError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


def _compare(folders: list[Path], out: Path) -> None:
    """Compare all runs in the folders.

    Raises:
        UserError: If there is none or one is damaged.
        FileError: If a file cannot be written.
    """
    write_comparison(group_by_settings(find_runs(folders)), out)
