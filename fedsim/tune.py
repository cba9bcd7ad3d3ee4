"""Chooses hyperparameters on validation images: ``python -m fedsim.tune SWEEP``; see ``fedsim/report/tuning.py``."""

import sys

from fedsim.report.tuning import main

if __name__ == "__main__":
    sys.exit(main())
