"""The client's side of a run, on every engine: a message becomes a call of the method, a model becomes scores."""
