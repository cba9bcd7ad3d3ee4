"""Diagnostics of the effect of normalization on features: ``diagnostics=true``.

In every tenth round each client passes some of its training images through its own model, and reports the mean and
variance of every channel before and after each norm layer, and sums of features per class; images do not leave the
client. From these the server computes the divergence between clients, between domains, and between training and
evaluation, and the neural collapse of the classes; from the replies to training messages it computes how well the
clients' updates agree. ``diagnostics.csv`` has a row for each round, layer and metric.

* ``activations``: the client side; ``divergence``: distances between channels' distributions
* ``collapse``: NC1 to NC4; ``updates``: cosines and distances of updates
* ``diagnosis``: the server side; ``pictures``: heat maps
"""
