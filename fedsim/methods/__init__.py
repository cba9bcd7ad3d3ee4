"""What a federated method is to the simulator, and what several methods share."""
