"""What a run leaves behind while it goes on: the run directory, its tables, its checkpoints, its progress."""
