"""A run in hand: its tables, and what draws them."""

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from fedsim.core.errors import UserError
from fedsim.core.run_files import PAGE
from fedsim.output.results import Result
from fedsim.report.labels import group_by_settings
from fedsim.report.page.writing import write_page
from fedsim.trained.trained import Trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Run(Result):
    """A run with its tables as pandas frames, its pictures and its models."""

    @classmethod
    def of(cls, result: Result) -> Self:
        """Return the run with these tables."""
        return cls(**{field.name: getattr(result, field.name) for field in fields(result)})

    def plot(self, picture: str = "accuracy") -> "Figure":
        """Return a picture of the run: ``accuracy`` over rounds, or the last one of the ``clients``.

        Raises:
            UserError: If there is no such picture.
        """
        from fedsim.report.plots import plot_run  # loads matplotlib, for which no run should wait
        from fedsim.report.style import kept_in_memory

        with kept_in_memory() as figures:
            plot_run(self.clients, self.rounds, Path())
        if picture not in figures:
            raise UserError(f"picture={picture} is not one of this run: choose {' or '.join(figures)}.")
        return figures[picture]

    def report(self) -> Path:
        """Write ``report.html`` anew, the run on one page with its figures, and return where it is."""
        write_page(group_by_settings([self]), self.run_dir)
        return self.run_dir / PAGE

    @cached_property
    def trained(self) -> Trained:
        """The models of the run, as ``fedsim.load`` returns them."""
        return Trained(self.run_dir)
