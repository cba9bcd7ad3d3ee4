"""The interface between federated methods and the simulator, and parts that several methods share."""
