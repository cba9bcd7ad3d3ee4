"""The numbers of a round and of each class, under the names that the tables have."""
