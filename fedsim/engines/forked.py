"""What the fork server imports, from which workers are forked: torch, Flower and the client's code.

multiprocessing starts that process with its own import path. Unless the checkout's folders are put on it first, it and
every worker would import another package called ``datasets`` instead of the checkout's, where one is installed.
"""

from fedsim.core.checkout import put_on_path

put_on_path()

from fedsim.core import collector  # noqa: E402

with collector.paused():  # and so no worker ever writes to the pages of these objects, looking for garbage
    import torch._dynamo  # noqa: F401  # torch imports it, for a second, with the first optimizer of each worker

    import fedsim.client.app_factory  # noqa: F401
    import fedsim.engines.worker  # noqa: F401
