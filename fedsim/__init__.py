"""fedsim: a federated learning simulator for studying normalization under non-IID data.

In a notebook: ``result = fedsim.simulate("strategy=fedwon", "rounds=10"); result.clients`` (a pandas frame).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedsim.output.results import Result

__version__ = "0.1.0"


def simulate(*overrides: str, progress: bool = True) -> "Result":
    """Run one simulation with the settings of ``python run.py`` and return its tables.

    It may be called from a notebook, a script (with or without ``if __name__ == "__main__"``) or a program of your own
    that uses Hydra. ``progress=False`` prints nothing.

    Raises:
        fedsim.core.errors.UserError: for wrong settings.
        fedsim.core.errors.RoundFailed: if too many clients fail.
    """
    from fedsim.core.checkout import put_on_path

    put_on_path()
    from fedsim.app.python_api import simulate as run_simulation  # torch and Flower are loaded only where they are used

    return run_simulation(overrides, progress=progress)
