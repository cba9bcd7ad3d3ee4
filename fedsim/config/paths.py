"""The settings that are paths, and the one place where ``~`` becomes the home folder."""

import errno
import os
from typing import Any

from fedsim.core.errors import UserError

PATHS = ("data_dir", "out_dir", "resume")
"""The settings of a run that are paths; ``OPTIONS`` has, by group, the options that are paths."""
OPTIONS = {
    "dataset": ("npz", "parquet"),
    "engine": ("root_certificates",),
    "model": ("pretrained",),
    "strategy": ("pretrained",),
}
HYDRAS = ("hydra.run.dir", "hydra.sweep.dir")
KEYS = (*PATHS, *(f"{group}.{option}" for group, options in OPTIONS.items() for option in options), *HYDRAS)


def expanded(key: str, value: Any) -> Any:
    """Return the value of this key, a path or an address, as a text with ``~`` replaced by the home folder.

    A number becomes a text, since YAML reads a path like 7 as a number; ``None`` stays ``None``.

    Raises:
        UserError: If the path begins with ``~NAME`` and there is no such user, or is too long for the system.
    """
    if value is None:
        return None
    path = os.path.expanduser(str(value))
    if path.startswith("~"):
        raise UserError(
            f"{key}={value} names a home folder that is not here: choose ./{value} for a folder of that name."
        )
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # any other is for whoever opens it
            raise UserError(f"{key}={value} is too long for a path: choose a shorter one.") from error
    except ValueError:
        pass  # a null character: likewise
    return path
