"""What normalization does to the features: ``diagnostics=true``.

In every tenth round each client lets some of its training images through the model it would use, and tells the mean
and variance of every channel before and after each norm layer, and sums of features per class; no image leaves it. The
server makes of this how far clients and domains are apart, how far training is from evaluation, and how far the classes
have collapsed; from the replies to training messages it takes how well the clients' updates agree.
``diagnostics.csv`` has a row for each round, layer and metric.

* ``activations``: the client's half; ``divergence``: distances between channels' distributions
* ``collapse``: NC1 to NC4; ``updates``: cosines and distances of updates
* ``diagnosis``: the server's half; ``pictures``: heat maps
"""
