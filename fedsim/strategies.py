"""The strategies for a Flower app of your own: ``from fedsim.strategies import FedBN``.

This module is the checkout's folder ``strategies/`` under another name, under which it can be imported from any folder
after ``pip install -e .``, beside packages of yours that are called ``strategies`` or ``datasets``.
"""

import importlib.util
import sys
from typing import TYPE_CHECKING

from fedsim.core.checkout import ROOT

if TYPE_CHECKING:
    from strategies import *  # noqa: F403
else:
    folder = ROOT / "strategies"
    if not (folder / "__init__.py").is_file():
        raise ImportError(f"{folder} is missing: install fedsim with pip install -e . from its checkout")
    spec = importlib.util.spec_from_file_location(
        __name__, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[__name__] = module  # what the import statement returns
    spec.loader.exec_module(module)
