"""``engine=superlink``: a run that a Flower SuperLink executes on its devices, followed from here."""

from fedsim.deployment.superlink.connection import NAME, SuperLink
from fedsim.deployment.superlink.following import follow
from fedsim.deployment.superlink.receiving import check_receiving_dir

__all__ = ["NAME", "SuperLink", "check_receiving_dir", "follow"]
