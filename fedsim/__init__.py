"""fedsim: a federated learning simulator for studying normalization under non-IID data.

In a notebook: ``run = fedsim.simulate("strategy=fedwon", "rounds=10"); run.clients`` (a pandas frame), ``run.plot()``,
``fedsim.compare([run, other])``; and ``fedsim.load(run.run_dir).predict(images, client=3)`` uses its models.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedsim.app.run import Run
    from fedsim.output.results import Result
    from fedsim.report.comparison import Comparison
    from fedsim.trained.trained import Trained

__version__ = "0.1.0"

# torch and Flower are loaded by the functions that use them.


def simulate(*overrides: str, progress: bool = True) -> "Run":
    """Run one simulation with the settings of ``python run.py`` and return its tables.

    It may be called from a notebook, a script (with or without ``if __name__ == "__main__"``) or a program of your own
    that uses Hydra. ``progress=False`` prints nothing.

    Raises:
        fedsim.core.errors.UserError: for wrong settings.
        fedsim.core.errors.RoundFailed: if too many clients fail.
    """
    from fedsim.core.checkout import put_on_path

    put_on_path()
    from fedsim.app.python_api import simulate as run_simulation

    return run_simulation(overrides, progress=progress)


def load(run_dir: "str | Path") -> "Trained":
    """Return the models of a finished run, the global one and the clients' own: they predict and can be exported.

    Raises:
        fedsim.core.errors.UserError: if the directory holds no run, or a damaged one.
    """
    from fedsim.core.checkout import put_on_path

    put_on_path()
    from fedsim.app.python_api import load as load_run

    return load_run(run_dir)


def compare(runs: "Iterable[Result | str | Path]") -> "Comparison":
    """Return the table and the pictures with which ``python -m fedsim.report`` compares runs, without writing them.

    Args:
        runs: What ``simulate`` returns, run directories, or folders with run directories below.

    Raises:
        fedsim.core.errors.UserError: if there is no run, or a damaged one.
    """
    from fedsim.core.checkout import put_on_path

    put_on_path()
    from fedsim.app.python_api import compare as compare_runs

    return compare_runs(runs)
