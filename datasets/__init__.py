"""What the clients hold: sources (one file each), splits, and the federation they make.

Hugging Face's package of the same name is not this one. This folder is never shipped in a wheel and wins only where the
project's root is first on ``sys.path`` (``python run.py``, a Flower app bundle, the tests); in such a process Hugging
Face's ``datasets``, and ``flwr-datasets``, which needs it, cannot be imported. Nothing of Flower, Ray, torch or
torchvision that this project uses imports it.
"""
