"""The output of a run: the run directory, its tables and checkpoints, and the progress that is shown."""
