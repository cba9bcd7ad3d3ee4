"""Imported first by the fork server, from which workers are forked, so that it finds the checkout's folders.

multiprocessing starts that process with its own import path. Without this module, it and every worker would import
another package called ``datasets`` instead of the checkout's, where one is installed.
"""

from fedsim.core.checkout import put_on_path

put_on_path()

import torch._dynamo  # noqa: E402, F401  # torch imports it, for a second, with the first optimizer of each worker
