"""Options of Hydra's own that make no sweep: it would end with an error of its own, or after the first job."""

from collections.abc import Callable
from typing import Any

from hydra.core.override_parser.types import Override

from fedsim.core.errors import UserError

Rule = tuple[Callable[[Any], bool], str]

_ALLOWED: dict[str, Rule] = {
    "hydra.launcher.n_jobs": (
        lambda value: isinstance(value, int) and value != 0,
        "a number of jobs at once, or -1 for the cores",
    ),
    "hydra.sweeper.max_batch_size": (
        lambda value: value is None or (isinstance(value, int) and value > 0),
        "a whole number of at least 1, or null",
    ),
    "hydra.sweep.subdir": (
        lambda value: "${" in str(value),
        "a name that differs from job to job, such as ${hydra.job.num}",
    ),
}
PARAMETERS = "hydra.sweeper.params"


def refuse_no_sweep(override: Override) -> None:
    """Refuse a word for Hydra by which a sweep cannot be made.

    Raises:
        UserError: If it is one.
    """
    key = override.key_or_group
    if key.startswith(PARAMETERS):
        raise UserError(f"{override.input_line} is not possible: give several values of a setting as KEY=VALUE,VALUE.")
    if key in _ALLOWED and not override.is_sweep_override():
        allowed, words = _ALLOWED[key]
        if not allowed(override.value()):
            raise UserError(f"{override.input_line} is not possible: choose {words}.")
