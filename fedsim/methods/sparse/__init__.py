"""Sparse training: masks, how they are chosen and adjusted, and how sparse networks are sent and stored.

* ``masks``: masks of active weights; packing active weights for a message
* ``candidates``: the number of active weights in each layer; ``criteria``: which ones are active at the start
* ``adjustment``: when and which weights are pruned and activated; ``gradients``: largest gradients of inactive weights
* ``queries``: a client's answers before training; ``records``: records of messages; ``export``: files of sparse
  networks
"""
