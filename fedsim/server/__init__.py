"""The server side of a run: preparation, the round loop, evaluation, and checks of the clients' replies."""
