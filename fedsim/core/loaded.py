"""Classes of libraries that take seconds to import: torchvision and timm bring a compiler of torch with them.

Modules that build their networks import them inside the functions that do; all others ask here.
"""

import sys


def loaded(module: str, *names: str) -> tuple[type, ...]:
    """Return the classes of these names in a module, for ``isinstance``; none if nothing has imported the module.

    No object can be of a class whose module has never been imported, so asking costs no import.
    """
    where = sys.modules.get(module)
    return () if where is None else tuple(getattr(where, name) for name in names)
