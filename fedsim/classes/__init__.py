"""What becomes of each class under a long tail.

After every evaluation ``classes.csv`` gets a row for each class: how many training images it has, how many of its test
images the global model gets right, and how long and how far apart the rows of the classifiers are.

* ``tracking``: the rows, and *many*, *medium* and *few* for ``rounds.csv``; ``pictures``: ``plots/classes.png``
"""

from fedsim.classes.tracking import ClassTracker

__all__ = ["ClassTracker"]
