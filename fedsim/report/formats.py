"""A ``Grid`` as LaTeX, as Markdown and for a terminal: best bold, second underlined, mean ± deviation over seeds."""

from dataclasses import dataclass

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fedsim.report.grids import Grid
from fedsim.report.labels import written
from fedsim.report.markdown import plain
from fedsim.report.significance import NO_TEST, all_pairs, sentences

BEST, SECOND = "best", "second"
_LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    **{letter: f"{{{letter}}}" for letter in "[]"},  # a row that begins with one would be an option of the line before
    "|": r"\textbar{}",
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "…": r"\dots{}",
}


@dataclass(frozen=True)
class Cell:
    """A cell as it is shown."""

    mean: str = ""
    """Empty without a run"""
    deviation: str = ""
    """The sample deviation over seeds; empty where there is one run"""
    rank: str = ""
    """``best``, ``second`` or empty"""

    def text(self, between: str = " ± ") -> str:
        return f"{self.mean}{between}{self.deviation}" if self.deviation else self.mean


def cells_of(grid: Grid) -> dict[tuple[str, str], Cell]:
    """Return the cells by row and column.

    Means that are shown by the same digits have the same rank in their column; where all are the same there is none.
    """
    means, deviations = grid.means(), grid.deviations()
    found: dict[tuple[str, str], Cell] = {}
    for place, column in enumerate(grid.columns):
        shown = [_shown(value, grid) for value in means.iloc[:, place]]
        order = sorted({float(each) for each in shown if each}, reverse=not grid.selection.lower_is_better)
        ranks = dict(zip(order, (BEST, SECOND), strict=False)) if len(order) > 1 else {}
        for row, mean, deviation in zip(grid.rows, shown, deviations.iloc[:, place], strict=True):
            rank = ranks.get(float(mean), "") if mean else ""
            found[row, column] = Cell(mean, _shown(deviation, grid), rank)
    return found


def _shown(value: float, grid: Grid) -> str:
    return "" if pd.isna(value) else f"{value * (100 if grid.selection.in_percent else 1):.{grid.selection.places}f}"


def caption(grid: Grid) -> str:
    """Return what the table shows, over how many seeds, and the settings that all runs share."""
    counts = {len(values) for values in grid.cells.values()}
    several = f"mean ± standard deviation over {'up to ' if len(counts) > 1 else ''}{max(counts)} seeds"
    seeds = several if max(counts) > 1 else f"seed {grid.seeds[0]}" if len(grid.seeds) == 1 else "one run each"
    words = [f"{key}={written(value)}" for key, value in grid.settings.items()]
    what = grid.words
    return f"{what[0].upper()}{what[1:]}: {seeds}. Settings: {' '.join(words)}."


def verdicts(grid: Grid) -> list[str]:
    """Return lines on the rows that the seeds cannot tell from the best one, for each compared column."""
    chosen = grid.selection
    told = {
        column: sentences(grid.column(column), percent=chosen.in_percent, lower=chosen.lower_is_better)
        for column in grid.compared
    }
    if told and all(lines == [NO_TEST] for lines in told.values()):
        return [NO_TEST]
    return [line for column, lines in told.items() if lines for line in (f"{column}: {lines[0]}", *lines[1:])]


def pairs(grid: Grid) -> pd.DataFrame:
    """Return the paired test of every pair of rows, for each column in which rows are compared."""
    found = [all_pairs(grid.column(column)).assign(column=column) for column in grid.compared]
    return pd.concat(found, ignore_index=True)


def to_latex(grid: Grid) -> str:
    r"""Return a table for a paper, which needs ``\usepackage{booktabs}``."""
    lines = [f"% {line}" for line in verdicts(grid)]
    lines += [r"\begin{table}", r"  \centering", f"  \\caption{{{latex(caption(grid))}}}"]
    lines += [f"  \\begin{{tabular}}{{l{'r' * len(grid.columns)}}}", r"    \toprule"]
    lines += [f"    {' & '.join(['', *map(latex, grid.columns)]).lstrip()} \\\\", r"    \midrule"]
    cells = cells_of(grid)
    for row in grid.rows:
        shown = [_in_latex(cells[row, column]) for column in grid.columns]
        lines.append(f"    {' & '.join([latex(row), *shown])} \\\\")
    lines += [r"    \bottomrule", r"  \end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _in_latex(cell: Cell) -> str:
    marked = {BEST: f"\\textbf{{{cell.mean}}}", SECOND: f"\\underline{{{cell.mean}}}"}.get(cell.rank, cell.mean)
    return marked + (f" {{\\scriptsize$\\pm$\\,{cell.deviation}}}" if cell.deviation else "")


def latex(text: str) -> str:
    """Return LaTeX that shows the text unchanged."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def to_markdown(grid: Grid) -> str:
    """Return a Markdown table with its caption above, and what cannot be told apart below."""
    lines = [plain(caption(grid)), "", f"| | {' | '.join(map(plain, grid.columns))} |"]
    lines.append(f"|---|{'---:|' * len(grid.columns)}")
    cells = cells_of(grid)
    for row in grid.rows:
        shown = [_in_markdown(cells[row, column]) for column in grid.columns]
        lines.append(f"| {' | '.join([plain(row), *shown])} |")
    notes = [f"{'  ' * line.startswith('  ')}* {plain(line.strip())}" for line in verdicts(grid)]
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


def _in_markdown(cell: Cell) -> str:
    marked = {BEST: f"**{cell.mean}**", SECOND: f"<u>{cell.mean}</u>"}.get(cell.rank, cell.mean)
    return marked + (f" ± {cell.deviation}" if cell.deviation else "")


def to_terminal(grid: Grid) -> Table:
    """Return the table for a terminal."""
    styles = {BEST: "bold", SECOND: "underline"}
    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    shown.add_column("")
    for column in grid.columns:
        shown.add_column(column, justify="right", no_wrap=True)
    cells = cells_of(grid)
    for row in grid.rows:
        mine = [cells[row, column] for column in grid.columns]
        shown.add_row(row, *(Text(cell.text(), styles.get(cell.rank, "")) for cell in mine))
    return shown
