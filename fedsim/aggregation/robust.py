"""Aggregations that are robust to a minority of wrong replies, computed by Flower's strategies.

Only Multi-Krum uses the weights of clients, in the average of the selected replies.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from flwr.serverapp import strategy as flower

from fedsim.aggregation.aggregation import Aggregation
from fedsim.aggregation.flower_adapter import Collected
from fedsim.core.errors import RoundFailed, UserError


class Robust(Aggregation):
    """Collects the replies of a round, then aggregates them by Flower's strategy.

    Raises:
        RoundFailed: At the end of a round, if too few clients are left after failures.
    """

    double: ClassVar[bool] = False

    @abstractmethod
    def strategy(self) -> flower.Strategy: ...

    def start(self, server_round: int, sent: Mapping[str, torch.Tensor]) -> Collected:
        def strategy_for(clients: int) -> flower.Strategy:
            reason = self.impossible(clients)
            if reason is not None:
                raise RoundFailed(f"in round {server_round} so few clients were left that {reason}")
            return self.strategy()

        return Collected(server_round, strategy_for, double=self.double)


class Median(Robust):
    """The median of each entry over the clients (Yin et al., ICML 2018, arXiv 1803.01498)."""

    def strategy(self) -> flower.FedMedian:
        return flower.FedMedian()

    def impossible(self, clients: int) -> str | None:
        if clients >= 3:
            return None
        return (
            f"aggregation=median of {clients} is their mean: choose a larger fraction, so that at least 3 clients are "
            "in each round, or aggregation=mean."
        )


class TrimmedMean(Robust):
    """The mean of each entry without its smallest and largest values (Yin et al., ICML 2018, arXiv 1803.01498).

    Args:
        share: The share of the n clients that is left out at each end, ``int(share * n)`` clients.

    Raises:
        UserError: If ``share`` is not above 0 and below 0.5.
    """

    def __init__(self, share: float) -> None:
        if not 0 < share < 0.5:
            raise UserError(f"aggregation.share={share} is not possible: choose a number above 0 and below 0.5.")
        self.share = share

    def strategy(self) -> flower.FedTrimmedAvg:
        return flower.FedTrimmedAvg(beta=self.share)

    def impossible(self, clients: int) -> str | None:
        if int(self.share * clients) >= 1:
            return None
        remedy = f"at least 1/{clients}" if clients >= 3 else "aggregation=mean, or a larger fraction"
        return f"aggregation.share={self.share:g} trims none of {clients} clients: choose {remedy}."


class Krum(Robust):
    """The reply that is nearest to its neighbours (Blanchard et al., NeurIPS 2017, arXiv 1703.02757).

    A reply's score is the sum of its squared distances, over all floating-point entries, to the n - f - 2 nearest of
    the other n - 1. Distances are computed in float64: in float32, Flower's formula would lose small distances between
    similar models to cancellation.

    Args:
        malicious: f, the number of wrong replies to tolerate; n must be above 2 f + 2.

    Raises:
        UserError: If ``malicious`` is negative.
    """

    double = True

    def __init__(self, malicious: int) -> None:
        if malicious < 0:
            raise UserError(f"aggregation.malicious={malicious} is not possible: choose a whole number of at least 0.")
        self.malicious = malicious

    def strategy(self) -> flower.MultiKrum:
        return flower.Krum(num_malicious_nodes=self.malicious)

    def impossible(self, clients: int) -> str | None:
        least = 2 * self.malicious + 3
        if clients >= least:
            return None
        return (
            f"aggregation.malicious={self.malicious} needs at least {least} clients in each round, and there are "
            f"{clients}: choose fewer, a larger fraction, or another aggregation."
        )


class MultiKrum(Krum):
    """The mean of the replies with the smallest scores, weighted by ``strategy.weighting``.

    Args:
        malicious: f, as in ``Krum``.
        selected: The number of these replies, at most n - f - 2 (El Mhamdi et al., ICML 2018, arXiv 1802.07927).

    Raises:
        UserError: If ``malicious`` is negative or ``selected`` below 1.
    """

    def __init__(self, malicious: int, selected: int) -> None:
        super().__init__(malicious)
        if selected < 1:
            raise UserError(f"aggregation.selected={selected} is not possible: choose a whole number of at least 1.")
        self.selected = selected

    def strategy(self) -> flower.MultiKrum:
        return flower.MultiKrum(num_malicious_nodes=self.malicious, num_nodes_to_select=self.selected)

    def impossible(self, clients: int) -> str | None:
        most = clients - self.malicious - 2
        if super().impossible(clients) is not None or self.selected <= most:
            return super().impossible(clients)
        return (
            f"aggregation.selected={self.selected} is not possible for {clients} clients in each round and "
            f"aggregation.malicious={self.malicious}: choose at most {most}."
        )
