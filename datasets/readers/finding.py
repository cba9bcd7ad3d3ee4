"""Finding the files of a data set under ``data_dir``, and checks of the domains and shares that are asked for."""

import math
from collections.abc import Sequence
from pathlib import Path

from datasets.readers.labelled import OnDisk, reading
from fedsim.core.errors import UserError
from fedsim.core.names import quoting_hint
from fedsim.core.rounding import whole_share


def data_folder(dataset: str, data_dir: Path | None, holds: str, *, make: bool = False) -> Path:
    """Return the folder of a data set.

    Args:
        dataset: The name of the data set, for error messages.
        data_dir: The folder.
        holds: A phrase about the files that it needs, for error messages.
        make: Whether the folder need not exist yet.

    Raises:
        UserError: If ``data_dir`` is not given or not a folder.
    """
    if data_dir is None:
        raise UserError(f"dataset={dataset} is read from data_dir=null: choose the folder that holds {holds}.")
    with reading(data_dir):
        if data_dir.is_dir() or (make and not data_dir.exists()):
            return data_dir
    raise UserError(f"data_dir={data_dir} is not a folder: choose the one that holds {holds}.")


def check_domains(domains: Sequence[str]) -> list[str]:
    """Check ``dataset.domains`` and return the names as texts.

    Raises:
        UserError: If it is not a list of different names.
    """
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
    """Check a share of images; ``None`` is allowed.

    Raises:
        UserError: If it is not above 0 and at most 1.
    """
    if value is not None and not 0 < value <= 1:
        raise UserError(f"dataset.{key}={value} is not possible: choose a number above 0 and at most 1.")


def share_of(key: str, share: float, images: int, domain: str) -> int:
    """Return how many of a domain's training images a share is, rounded down.

    Raises:
        UserError: If it is none, since the domain would vanish.
    """
    count = whole_share(share, images)
    if not count:
        raise UserError(
            f"dataset.{key}={share} leaves the domain {domain} none of its {images} training images: "
            f"choose at least {_least_share(images):g}, or leave the domain out."
        )
    return count


def _least_share(images: int) -> float:
    """Return the smallest share with three digits that amounts to one image."""
    unit = 10.0 ** -(2 + len(str(images)))
    steps = math.ceil(1 / (images * unit))
    while int(images * float(f"{steps * unit:g}")) < 1:  # rounded as in the message, which the user will copy
        steps += 1
    return steps * unit


def present(forms: Sequence[OnDisk]) -> OnDisk | None:
    """Return the first form whose files all exist; ``None`` if there is none."""
    return next((form for form in forms if form.is_there()), None)


def first_there(name: str, forms: Sequence[OnDisk], *, downloadable: bool = False) -> OnDisk:
    """Return the first form whose files all exist.

    Raises:
        UserError: If there is none; names the files that were looked for, and the setting to change.
    """
    form = present(forms)
    if form is None:
        fetch = ", or download=true to fetch it" if downloadable else ""
        raise UserError(f"{name} is not there: looked for {looked_for(forms)}; choose the data_dir that has it{fetch}.")
    return form


def missing_domains(missing: Sequence[str], files: str, found: Sequence[str], *, fetch: str = "") -> UserError:
    """Return the error for domains that are missing; ``files`` are the files of the first of them, in words.

    Its advice lists the domains that were found, so that an incomplete data set can be used.
    """
    are = f"the domain {missing[0]} is" if len(missing) == 1 else f"the domains {', '.join(missing)} are"
    first = "" if len(missing) == 1 else f"for {missing[0]}, "
    known = f", or dataset.domains=[{','.join(found)}], as was found" if found else ""
    return UserError(
        f"{are} not there: {first}looked for {files}; choose the data_dir that has all of them{fetch}{known}."
    )


def looked_for(forms: Sequence[OnDisk]) -> str:
    """Return the files of all forms in words."""
    return ", or ".join(form.looked_for or _listed(form.files) for form in forms)


def _listed(files: Sequence[Path], shown: int = 2) -> str:
    names = [str(file) for file in files[:shown]]
    return " and ".join(names) + (f" and {len(files) - shown} more" if len(files) > shown else "")
