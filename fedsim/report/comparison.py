"""What ``python -m fedsim.report`` prints and writes without further options: tables and pictures of some runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pandas as pd
from matplotlib.figure import Figure

from fedsim.core.files import write_atomically, writing
from fedsim.core.names import MEAN
from fedsim.output.results import Result
from fedsim.output.terminal import print_line, print_whole
from fedsim.report.comparison_tables import (
    accuracy_by_seed,
    accuracy_table,
    diagnostics_by_label,
    learning_curves,
    render,
    to_markdown,
)
from fedsim.report.diagnostics_pictures import plot_diagnostics_comparison
from fedsim.report.heads import is_total
from fedsim.report.labels import named_label
from fedsim.report.plots import plot_comparison_by_domain, plot_comparison_over_rounds
from fedsim.report.published import write_published
from fedsim.report.significance import sentences
from fedsim.report.style import files, kept_in_memory


def write_comparison(groups: dict[str, list[Result]], out: Path) -> None:
    """Print the accuracies of runs by label, and write them with their pictures into ``out``.

    Raises:
        FileError: If a file cannot be written.
    """
    table = accuracy_table(groups)
    print_whole(render(table))
    for line in sentences({label: accuracy_by_seed(runs) for label, runs in groups.items()}):
        print_line(line)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "comparison.md", lambda path: path.write_text(to_markdown(table), encoding="utf-8"))
    write_atomically(out / "comparison.csv", lambda path: table.to_csv(path, index=False, encoding="utf-8"))
    written = ["comparison.md", "comparison.csv", *files("comparison_domains.png"), *files("comparison_rounds.png")]
    plot_accuracies(table, out / "comparison_domains.png")
    plot_curves(groups, out / "comparison_rounds.png")
    written += write_published(groups, out)
    diagnosed = diagnostics_by_label(groups)
    if diagnosed:
        written += files("comparison_diagnostics.png")
        named = {named_label(name): frame for name, frame in diagnosed.items()}
        plot_diagnostics_comparison(named, out / "comparison_diagnostics.png")
    print_line(f"written to {out}: {', '.join(written)}")


@dataclass(frozen=True)
class Comparison:
    """What ``python -m fedsim.report`` makes of runs, in hand."""

    table: pd.DataFrame
    """As ``comparison.csv``: label, domain, mean, std, runs; in percent."""
    figure: Figure
    """The accuracy of each domain."""
    curves: Figure
    """The mean client accuracy over rounds."""
    sentences: tuple[str, ...]
    """What a paired test over the seeds says."""

    @classmethod
    def of(cls, groups: dict[str, list[Result]]) -> Self:
        """Compare runs by label."""
        table = accuracy_table(groups)
        with kept_in_memory() as figures:
            plot_accuracies(table, Path("domains"))
            plot_curves(groups, Path("rounds"))
        said = sentences({label: accuracy_by_seed(runs) for label, runs in groups.items()})
        return cls(table, figures["domains"], figures["rounds"], tuple(said))


def plot_accuracies(table: pd.DataFrame, path: Path) -> None:
    """Plot the accuracy of each domain, and the mean."""
    domains = table[[name == MEAN or not is_total(name) for name in table["domain"]]]
    plot_comparison_by_domain(domains.assign(label=domains["label"].map(named_label)), path)


def plot_curves(groups: dict[str, list[Result]], path: Path) -> None:
    """Plot the mean client accuracy over rounds."""
    curves = {named_label(name): frame for name, frame in learning_curves(groups).items()}
    plot_comparison_over_rounds(curves, path)
