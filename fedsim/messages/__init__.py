"""What travels: the names in messages, tensors inside Flower's records, compressed updates."""
