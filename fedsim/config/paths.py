"""The settings that are paths, and the one place where ``~`` becomes the home folder."""

import os
from typing import Any

from fedsim.core.errors import UserError

PATHS = ("data_dir", "out_dir", "resume")
"""Settings of a run; in ``OPTIONS``, by group, those options of a group that are paths."""
OPTIONS = {
    "dataset": ("npz", "parquet"),
    "engine": ("root_certificates",),
    "strategy": ("pretrained",),
}
HYDRAS = ("hydra.run.dir", "hydra.sweep.dir")
KEYS = (*PATHS, *(f"{group}.{option}" for group, options in OPTIONS.items() for option in options), *HYDRAS)


def expanded(key: str, value: Any) -> Any:
    """Return the path, or address, that is the value of this key, with the home folder in the place of ``~``.

    YAML reads a path like 7 as a number; ``None`` stays.

    Raises:
        UserError: for ``~NAME`` where there is no such user.
    """
    if value is None:
        return None
    path = os.path.expanduser(str(value))
    if path.startswith("~"):
        raise UserError(
            f"{key}={value} names a home folder that is not here: choose ./{value} for a folder of that name."
        )
    return path
