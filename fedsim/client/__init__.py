"""The client side of a run, on every engine: processing of messages, client state, optimizers and scores."""
