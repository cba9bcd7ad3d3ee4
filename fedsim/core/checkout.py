"""The folder of the checkout, or of the unpacked Flower app, and how its top-level folders become importable."""

import sys
from pathlib import Path

from fedsim.core.errors import UserError

ROOT = Path(__file__).resolve().parent.parent.parent
"""The folder that holds ``configs/``, ``strategies/``, ``clients/`` and ``datasets/``."""


FOLDERS = ("strategies", "clients", "datasets")


def put_on_path() -> None:
    """Make ``strategies``, ``clients`` and ``datasets`` importable from wherever this process was started.

    Raises:
        UserError: If another package of such a name, such as Hugging Face's ``datasets``, is already imported.
    """
    for name in FOLDERS:
        other = sys.modules.get(name)
        if other is not None and not str(other.__file__).startswith(str(ROOT / name)):
            raise UserError(
                f"the package {name} of {other.__file__} is already imported, and fedsim has one of the same name: "
                "choose a fresh Python process for fedsim."
            )
    if sys.path[:1] != [str(ROOT)]:
        sys.path.insert(0, str(ROOT))
