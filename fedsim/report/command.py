"""Tables and pictures of one run or many: ``python -m fedsim.report multirun/2026-11-23/21-04-11``.

Runs that differ only in their seed are one row, *mean ± standard deviation* (sample formula) over the seeds.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fedsim.config.paths import expanded
from fedsim.core.errors import INTERRUPTED, FedsimError, UserError
from fedsim.core.files import write_atomically, writing
from fedsim.core.run_files import PAGE
from fedsim.output.results import Result, find_runs
from fedsim.output.terminal import never_fail_to_print, print_line, print_whole
from fedsim.report.comparison import write_comparison
from fedsim.report.formats import caption, pairs, to_latex, to_markdown, to_terminal, verdicts
from fedsim.report.grid_pictures import plot_grid
from fedsim.report.grids import Grid, grid
from fedsim.report.labels import group_by_settings
from fedsim.report.page.writing import write_page
from fedsim.report.run_difference import print_difference
from fedsim.report.selection import ACCURACY, BY, FINAL, selection
from fedsim.report.style import SCREEN, STYLES, drawn_as, files

FORMATS = ("latex", "markdown", "csv")
OF_A_TABLE = ("metric", "by", "round", "rows", "columns", *FORMATS)
"""Options that ask for one table in place of the usual comparison"""


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    never_fail_to_print()
    try:
        _act(options)
    except FedsimError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("stopped; the runs are as they were", file=sys.stderr)
        return INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fedsim.report",
        description="Tables and pictures of runs. Without options: accuracies after the last round, and curves.",
    )
    parser.add_argument("folders", nargs="*", help="run directories, or folders with run directories below")
    parser.add_argument("--out", help="where tables and pictures go (default: the first folder)")
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two runs: in what they differ, since when")
    parser.add_argument(
        "--style", choices=STYLES, default=SCREEN, help="of the pictures; paper and talk also write them as PDF"
    )
    table = parser.add_argument_group("one table", "written as table.csv, .md and .tex, with pairs.csv, its tests")
    table.add_argument("--metric", help=f"a column of clients.csv, classes.csv or rounds.csv (default: {ACCURACY})")
    table.add_argument("--by", help=f"columns: {', '.join(BY)}")
    table.add_argument("--round", help="final, best or a number (default: final)")
    table.add_argument("--rows", help="settings whose values make the rows: strategy, or norm,lr")
    table.add_argument("--columns", help="settings whose values make the columns; also drawn, as grid.png")
    for name in FORMATS:
        table.add_argument(f"--{name}", action="store_true", help=f"only print the table as {name}")
    return parser


def _act(options: argparse.Namespace) -> None:
    """Do what the options ask for.

    Raises:
        UserError: If there is no run or one is damaged, or the options do not go together.
        FileError: If a file cannot be written.
    """
    if options.compare is not None:
        if options.folders:
            raise UserError("--compare takes two runs and nothing else: leave the other folders out.")
        print_difference(*(Path(expanded("--compare", each)) for each in options.compare))
        return
    if not options.folders:
        raise UserError("no folder is given: choose run directories, or folders with run directories below.")
    folders = [Path(expanded("the folder", each)) for each in options.folders]
    out = folders[0] if options.out is None else Path(expanded("--out", options.out))
    runs = find_runs(folders)
    with drawn_as(options.style):
        if any(getattr(options, name) for name in OF_A_TABLE):
            _show_table(options, runs, out)
        else:
            groups = group_by_settings(runs)
            write_comparison(groups, out)
            _write_page(groups, out)


def _write_page(groups: dict[str, list[Result]], out: Path) -> None:
    """Write ``report.html``, but not into the folder of a run that has not ended: a sweep takes it for the end."""
    if (out / "config.yaml").exists() and not (out / PAGE).exists():
        print_line(f"{PAGE} is not written: {out} holds a run that has not ended; choose another folder with --out")
        return
    write_page(groups, out)
    print_line(f"written to {out}: {PAGE}")


def _show_table(options: argparse.Namespace, runs: list[Result], out: Path) -> None:
    formats = [name for name in FORMATS if getattr(options, name)]
    if len(formats) > 1:
        raise UserError(f"--{formats[0]} and --{formats[1]} are two formats: choose one, or neither to write them all.")
    chosen = selection(options.metric or ACCURACY, options.by, options.round or FINAL, runs)
    table = grid(runs, chosen, _listed(options.rows), _listed(options.columns))
    texts = {"latex": to_latex(table), "markdown": to_markdown(table), "csv": table.table.to_csv(index=False)}
    if formats:
        print_line(texts[formats[0]].removesuffix("\n"))
        return
    print_line(caption(table))
    print_whole(to_terminal(table))
    for line in verdicts(table):
        print_line(line)
    _write(table, texts, out)


def _write(table: Grid, texts: dict[str, str], out: Path) -> None:
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    texts = {f"table.{end}": texts[name] for name, end in (("csv", "csv"), ("markdown", "md"), ("latex", "tex"))}
    texts["pairs.csv"] = pairs(table).to_csv(index=False)
    for name, text in texts.items():
        write_atomically(out / name, partial(_put, text=text))
    written = list(texts)
    if table.by_setting:
        written += files("grid.png")
        plot_grid(table, out / "grid.png")
    print_line(f"written to {out}: {', '.join(written)}")


def _put(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _listed(text: str | None) -> Sequence[str]:
    return [] if not text else [each.strip() for each in text.split(",")]
