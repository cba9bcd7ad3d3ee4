"""``engine=superlink``: a run that a Flower SuperLink plays on its devices, followed from here."""

from fedsim.superlink.connection import NAME, SuperLink
from fedsim.superlink.following import follow

__all__ = ["NAME", "SuperLink", "follow"]
