"""Contents of messages: names of records, tensors in Flower's records, and compressed updates."""
