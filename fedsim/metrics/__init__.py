"""The metrics of a round and of each class, under their names in the tables."""
