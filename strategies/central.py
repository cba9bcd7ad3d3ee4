"""Central training: the row of a table for which all training images have been brought to one place."""

from collections.abc import Iterable

from flwr.serverapp import Grid

from .fedavg import FedAvg


class Central(FedAvg):
    """One model is trained on the images of all clients, by the first of them, and tested on every client.

    A round is ``local_epochs`` passes over all training images, with a new optimizer, so that it shows each image as
    often as a round of another method with ``fraction=1``. Nothing is averaged; ``fraction`` and ``weighting`` have no
    effect. ``split.pooled`` gives the client the images (``datasets/federation.py``). The bytes are those between the
    server and the place that has them; how they came there is not counted.
    """

    pooled = True
    uses_aggregation = False

    def cohort(self, server_round: int, grid: Grid) -> list[int]:
        """Return the first client."""
        clients: Iterable[int] = grid.get_node_ids()
        return [min(clients)]
