"""``python -m fedsim.report FOLDER ...``: tables and pictures of one run or many."""

import sys

from fedsim.report.command import main

if __name__ == "__main__":
    sys.exit(main())
