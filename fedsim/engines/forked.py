"""What the process that workers are forked from imports first: from here on it finds the checkout's folders.

Without it that process, which multiprocessing starts with a path of its own, would take another package called
``datasets`` for ours where one is installed, and so would every worker.
"""

from fedsim.core.checkout import put_on_path

put_on_path()
