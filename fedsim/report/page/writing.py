"""Writing ``report.html``: at the end of a run, and for any runs with ``python -m fedsim.report``."""

from collections.abc import Mapping
from pathlib import Path

from fedsim.core.files import write_atomically
from fedsim.core.run_files import PAGE
from fedsim.output.results import Result
from fedsim.report.labels import named_label
from fedsim.report.page.document import document
from fedsim.report.page.texts import all_settings, results, what_was_run


def write_page(groups: Mapping[str, list[Result]], folder: Path, *, figures: bool = True) -> None:
    """Write ``report.html`` of these runs, by label, into the folder.

    Raises:
        FileError: If it cannot be written.
        UserError: If a file of a run is damaged.
    """
    text = page(groups, figures=figures)
    write_atomically(folder / PAGE, lambda path: path.write_text(text, encoding="utf-8"))


def page(groups: Mapping[str, list[Result]], *, figures: bool = True) -> str:
    """Return the document; without figures it has texts and tables alone, and takes a hundredth of the time."""
    named = {named_label(label): runs for label, runs in groups.items()}
    if not figures:
        return document(_title(named), [what_was_run(named), results(named), all_settings(named)])
    from altair.utils.schemapi import debug_mode  # with the next one, Altair takes a second

    from fedsim.report.page.sections import sections

    with debug_mode(False):  # as in ``Figure.spec``, for the parts of figures
        return document(_title(named), sections(named))


def _title(groups: Mapping[str, list[Result]]) -> str:
    datasets = dict.fromkeys(str(run.summary["dataset"]) for runs in groups.values() for run in runs)
    methods = list(groups) if len(groups) <= 4 else [f"{len(groups)} methods"]
    return f"{', '.join(methods)} on {', '.join(datasets)}"
