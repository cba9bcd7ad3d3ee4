"""Where a set lies under ``data_dir``, and which of its domains are wanted."""

from collections.abc import Sequence
from pathlib import Path

from datasets.readers.labelled import OnDisk
from fedsim.errors import UserError
from fedsim.names import quoting_hint


def data_folder(dataset: str, data_dir: Path | None, *, make: bool = False) -> Path:
    """Errors: ``UserError`` if ``data_dir`` is not given or no folder; with ``make`` it may be new."""
    if data_dir is None:
        raise UserError(f"dataset={dataset} is read from data_dir=null: choose the folder that holds its files.")
    if not data_dir.is_dir() and not make:
        raise UserError(f"data_dir={data_dir} is not a folder: choose the one that holds the files of {dataset}.")
    return data_dir


def check_domains(domains: Sequence[str]) -> list[str]:
    """Errors: ``UserError`` unless it is a list of names, each one once."""
    given = list(domains) if isinstance(domains, Sequence) and not isinstance(domains, str) else []
    unread = next((name for name in given if isinstance(name, bool) or not isinstance(name, str | int)), "")
    names = list(map(str, given))  # a name like 2019 comes as a number
    if not names or unread != "" or len(set(names)) < len(names):
        raise UserError(
            f"dataset.domains={domains} is not possible: choose a list of names, each once: "
            f"[one,two]{quoting_hint(unread)}."
        )
    return names


def check_share(key: str, value: float | None) -> None:
    """Errors: ``UserError`` for a share of nothing or of more than all."""
    if value is not None and not 0 < value <= 1:
        raise UserError(f"dataset.{key}={value} is not possible: choose a number above 0 and at most 1.")


def first_there(name: str, forms: Sequence[OnDisk]) -> OnDisk:
    """The first form whose files are all there. Errors: ``UserError`` naming the files that were looked for."""
    for form in forms:
        if form.is_there():
            return form
    looked_for = ", or ".join(_listed(form.files) for form in forms)
    raise UserError(f"{name} is not there: looked for {looked_for}.")


def _listed(files: Sequence[Path], shown: int = 2) -> str:
    names = [str(file) for file in files[:shown]]
    return " and ".join(names) + (f" and {len(files) - shown} more" if len(files) > shown else "")
