"""Trackers: programs of others that show the numbers of runs, such as TensorBoard."""
