"""The contestants of ``benchmarks/compare.py``: one small file for each, in which ``main(task, record)`` runs it."""

from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True)
class Contestant:
    module: str
    """The file in this folder"""
    needs: tuple[str, ...] = ()
    """Modules that fedsim does not need itself"""
    install: str = ""
    """The command that installs them"""

    def missing(self) -> list[str]:
        return [name for name in self.needs if find_spec(name) is None]


BLAZEFL = Contestant(
    "blazefl_run",
    ("blazefl", "tqdm"),
    "pip install blazefl tqdm, which asks for Python 3.13 (its source also runs on 3.11: put its src/ on PYTHONPATH)",
)
CONTESTANTS = {
    "bare": Contestant("bare"),
    "fedsim": Contestant("fedsim_run"),
    "fedsim_lean": Contestant("fedsim_run"),
    "blazefl_threads": BLAZEFL,
    "blazefl_processes": BLAZEFL,
    "flower_ray": Contestant("flower_ray", ("ray",), 'pip install -e ".[ray]"'),
    "pfl": Contestant(
        "pfl_research",
        ("pfl", "multiprocess", "dill", "dp_accounting", "prv_accountant"),
        # Its metadata names versions of other packages that need not be those of this environment.
        'pip install --no-deps "pfl==0.6.0" "multiprocess<0.71" dill "dp-accounting<0.6" "prv-accountant<0.3"',
    ),
}
"""By name, in the order in which they run; the first is what the others are compared with."""
