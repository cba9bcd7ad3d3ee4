"""FedBN in a Flower app of one's own: the server's half is fedsim's, the rest is plain Flower and PyTorch."""
