"""The command ``python -m datasets.show``: what the clients hold. The program is ``fedsim/app/show_data.py``."""

import sys

if __name__ == "__main__":
    from fedsim.app.show_data import main  # not at module level: data sets need no program

    sys.exit(main())
