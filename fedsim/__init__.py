"""fedsim: a federated learning simulator for studying normalization under non-IID data.

In a notebook: ``result = fedsim.simulate("strategy=fedwon", "rounds=10"); result.clients`` (a pandas frame).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedsim.results import Result

__version__ = "0.1.0"


def simulate(*overrides: str) -> "Result":
    """Runs one simulation with the settings of ``python run.py`` and returns its tables.

    Errors: ``fedsim.errors.UserError`` for wrong settings, ``RoundFailed`` if too many clients fail.
    """
    from fedsim.notebook import simulate as run_simulation  # torch and Flower are loaded only where they are used

    return run_simulation(overrides)
