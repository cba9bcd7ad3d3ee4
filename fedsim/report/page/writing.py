"""Writing ``report.html``: at the end of a run, and for any runs with ``python -m fedsim.report``."""

from collections.abc import Mapping
from pathlib import Path

from altair.utils.schemapi import debug_mode

from fedsim.core.files import write_atomically
from fedsim.output.results import Result
from fedsim.report.labels import named_label
from fedsim.report.page.document import document
from fedsim.report.page.sections import sections

PAGE = "report.html"
"""The last file that a run writes: where it is, the run is finished."""


def write_page(groups: Mapping[str, list[Result]], folder: Path) -> None:
    """Write ``report.html`` of these runs, by label, into the folder.

    Raises:
        FileError: If it cannot be written.
        UserError: If a file of a run is damaged.
    """
    text = page(groups)
    write_atomically(folder / PAGE, lambda path: path.write_text(text, encoding="utf-8"))


def page(groups: Mapping[str, list[Result]]) -> str:
    """Return the document."""
    named = {named_label(label): runs for label, runs in groups.items()}
    with debug_mode(False):  # as in ``Figure.spec``, for the parts of figures
        return document(_title(named), sections(named))


def _title(groups: Mapping[str, list[Result]]) -> str:
    datasets = dict.fromkeys(str(run.summary["dataset"]) for runs in groups.values() for run in runs)
    methods = list(groups) if len(groups) <= 4 else [f"{len(groups)} methods"]
    return f"{', '.join(methods)} on {', '.join(datasets)}"
