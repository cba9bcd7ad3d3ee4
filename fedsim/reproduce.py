"""The runs of a published table: ``python -m fedsim.reproduce EXPERIMENT``; see ``fedsim/report/reproducing.py``."""

import sys

from fedsim.report.reproducing import main

if __name__ == "__main__":
    sys.exit(main())
