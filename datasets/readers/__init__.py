"""Readers of images, one module for each form on disk. They return a ``Labelled``."""
