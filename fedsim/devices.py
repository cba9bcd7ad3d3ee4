"""Sets devices up: ``python -m fedsim.devices``; the commands are those of ``fedsim/deployment/devices``."""

import sys

from fedsim.deployment.devices.command import main

if __name__ == "__main__":
    sys.exit(main())
