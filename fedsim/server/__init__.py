"""The server's side of a run: preparing it, the round loop, evaluation, and the checks of what clients reply."""
