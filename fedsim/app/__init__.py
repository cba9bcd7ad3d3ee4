"""Where a run is started: the command line, ``fedsim.simulate``, and the two Flower apps."""
