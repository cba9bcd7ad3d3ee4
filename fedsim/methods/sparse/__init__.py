"""Networks most of whose weights are zero: masks, how they are chosen and moved, and what travels of them.

* ``masks``: which weights are kept; packing what is kept for a message
* ``candidates``: how many each layer keeps; ``criteria``: which ones, at the start
* ``adjustment``: when and which weights change places; ``gradients``: the largest of weights that are not kept
* ``queries``: a client's answers before training; ``export``: files as small as the network
"""
