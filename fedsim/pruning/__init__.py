"""Networks most of whose weights are zero: masks, how they are chosen and moved, and what travels of them.

* ``masks``: which weights are kept; packing what is kept for a message
"""
