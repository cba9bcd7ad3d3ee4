"""``grid.png``: a table of two settings as a heat map."""

from pathlib import Path

import numpy as np

from fedsim.report.formats import cells_of
from fedsim.report.grids import Grid
from fedsim.report.plots import lines_of, picture

COLOURS = "cividis"
"""A scale that people with any colour vision read, in grey, too"""


def plot_grid(grid: Grid, path: Path) -> None:
    """Plot the means of the cells as colours, with mean and deviation as text; a cell without a run stays empty."""
    means = grid.means() * (100 if grid.selection.in_percent else 1)
    cells = cells_of(grid)
    height, width = means.shape
    lines = max(lines_of(row).count("\n") + 1 for row in grid.rows)
    with picture(path, 2.4 + 0.95 * width, 1.5 + max(0.5, 0.16 * lines) * height) as (axes,):
        image = axes.imshow(means, cmap=COLOURS, aspect="auto")
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.set_xticks(range(width), map(lines_of, grid.columns), rotation=30 if width > 4 else 0)
        axes.set_yticks(range(height), map(lines_of, grid.rows))
        axes.tick_params(length=0)
        low, high = np.nanmin(means), np.nanmax(means)
        for (row, column), mean in np.ndenumerate(means.to_numpy()):
            dark = mean < low + 0.55 * (high - low)
            text = cells[grid.rows[row], grid.columns[column]].text("\n± ")
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
        axes.set_title(grid.words, fontsize=9)
        axes.figure.colorbar(image, ax=axes, pad=0.02)
