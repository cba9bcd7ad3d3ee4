"""The data of the clients: sources (one file each), splits, and the federation made of them.

This is not Hugging Face's package of the same name. This folder is never shipped in a wheel and takes precedence only
where the project's root is first on ``sys.path`` (``python run.py``, a Flower app bundle, the tests). In such a process
Hugging Face's ``datasets``, and ``flwr-datasets``, which needs it, cannot be imported. Nothing that this project uses
of Flower, Ray, torch or torchvision imports it.
"""
