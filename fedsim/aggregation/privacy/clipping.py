r"""Clipped updates, and Gaussian noise on their mean, as Flower's wrappers compute them.

Flower wraps a strategy and takes the complete model for what every client was sent and returns. Here clients keep parts
for themselves, send packed weights, and have counters that stand no noise. So the wrapper is put around the
aggregation: it sees the floating-point entries of what travels, as vectors of float64, and nothing else of the method.
Where no update is clipped and there is no noise, the result is that of the aggregation itself, bit for bit unless a
weight shrinks in one round by more than the 29 bits that float64 has beyond float32.

Of Flower's client-side wrappers there is none here. In a simulation their numbers would be the same, and
``fixedclipping_mod`` (Flower 1.41) takes BatchNorm's counters for part of the update, and answers with an error to a
message with a record of arrays beside the model, and to whatever is no training message.
"""

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy

from fedsim.aggregation import Aggregate, Aggregation, Mean
from fedsim.aggregation.flower_adapter import Collected
from fedsim.aggregation.privacy.noise import global_numpy_seed
from fedsim.core.errors import RoundFailed, UserError
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import NUM_EXAMPLES, arrays_of, metrics_of, number

RECORD, NORM = "privacy", "clipping_norm"


class Clipping(Aggregation):
    """What both kinds have in common.

    Noise has the standard deviation of a mean in which all clients weigh alike (McMahan et al., ICLR 2018, arXiv
    1710.06963), :math:`z C / n`, for the n clients that answered; z is ``noise_multiplier`` and C the clipping norm.

    Errors: ``UserError`` for wrong options.
    """

    def __init__(self, aggregation: Aggregation, norm_key: str, clipping_norm: float, noise: float, seed: int) -> None:
        if not 0 < clipping_norm < math.inf:
            raise UserError(f"privacy.{norm_key}={clipping_norm} is not possible: choose a number above 0.")
        if not 0 <= noise < math.inf:
            raise UserError(f"privacy.noise_multiplier={noise} is not possible: choose a number of at least 0.")
        if noise > 0 and not isinstance(aggregation, Mean):
            raise UserError(
                f"privacy.noise_multiplier={noise} is made for a mean: choose aggregation=mean, or "
                "privacy.noise_multiplier=0."
            )
        self.aggregation = aggregation
        self.clipping_norm = clipping_norm
        self.noise_multiplier = noise
        self.noisy = noise > 0
        self.seed = seed
        self._norms: list[float] = []
        self._clipped_at = clipping_norm

    @abstractmethod
    def wrapped(self, strategy: Strategy, clients: int) -> "Wrapper":
        """Flower's wrapper for so many replies."""

    def start(self, server_round: int, sent: Mapping[str, torch.Tensor]) -> Collected:
        self._norms, self._clipped_at = [], self.clipping_norm
        return _Updates(self, server_round, sent, self.aggregation.start(server_round, sent), self._norms)

    def finish(self, wrapper: "Wrapper") -> None:
        """After a round."""

    def impossible(self, clients: int) -> str | None:
        return self.aggregation.impossible(clients)

    def metrics(self) -> dict[str, float]:
        """The norm that updates were clipped at, the share of them that it clipped, and their median norm before."""
        clipped = sum(norm > self._clipped_at for norm in self._norms) / max(1, len(self._norms))
        median = float(torch.tensor(self._norms, dtype=torch.float64).quantile(0.5)) if self._norms else 0.0
        return {NORM: self._clipped_at, "clipped": clipped, "update_norm": median}


class FixedClipping(Clipping):
    """Updates longer than ``clipping_norm`` are shortened to it (Geyer et al. 2017, arXiv 1712.07557).

    With ``noise_multiplier=0`` that is all. Flower's ``DifferentialPrivacyServerSideFixedClipping``.
    """

    def __init__(
        self, aggregation: Aggregation | None = None, *, clipping_norm: float, noise_multiplier: float, seed: int = 0
    ) -> None:
        super().__init__(aggregation or Mean(), NORM, clipping_norm, noise_multiplier, seed)

    def wrapped(self, strategy: Strategy, clients: int) -> "Wrapper":
        return flower.DifferentialPrivacyServerSideFixedClipping(
            strategy, self.noise_multiplier, self.clipping_norm, clients
        )


class AdaptiveClipping(Clipping):
    r"""The clipping norm follows a quantile of the updates' norms (Andrew et al., NeurIPS 2021, arXiv 1905.03871).

    After each round :math:`C \leftarrow C \exp(\eta (b - q))`, where b is the share of the updates that were clipped, q
    ``target_clipped_quantile`` and :math:`\eta` ``clip_norm_lr``: Algorithm 1 with :math:`\gamma = 1 - q`. Flower's
    ``DifferentialPrivacyServerSideAdaptiveClipping``, but for two lines (``_Adaptive``).
    """

    def __init__(
        self,
        aggregation: Aggregation | None = None,
        *,
        initial_clipping_norm: float = 0.1,
        target_clipped_quantile: float = 0.5,
        clip_norm_lr: float = 0.2,
        noise_multiplier: float = 0.0,
        clipped_count_stddev: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(aggregation or Mean(), "initial_clipping_norm", initial_clipping_norm, noise_multiplier, seed)
        if not 0 <= target_clipped_quantile <= 1:
            raise UserError(
                f"privacy.target_clipped_quantile={target_clipped_quantile} is not possible: choose a number from 0 to "
                "1."
            )
        if not 0 < clip_norm_lr < math.inf:
            raise UserError(f"privacy.clip_norm_lr={clip_norm_lr} is not possible: choose a number above 0.")
        if clipped_count_stddev is not None and not 0 <= clipped_count_stddev < math.inf:
            raise UserError(
                f"privacy.clipped_count_stddev={clipped_count_stddev} is not possible: choose a number of at least 0, "
                "or null."
            )
        self.target_clipped_quantile = target_clipped_quantile
        self.clip_norm_lr = clip_norm_lr
        self.clipped_count_stddev = clipped_count_stddev

    def impossible(self, clients: int) -> str | None:
        """Part of the budget goes to the number of clipped updates, and the rest must be something."""
        deviation = clients / 20 if self.clipped_count_stddev is None else self.clipped_count_stddev
        if self.noise_multiplier > 0 and 2 * deviation <= self.noise_multiplier:
            return (
                f"privacy.noise_multiplier={self.noise_multiplier:g} is not possible with a standard deviation of "
                f"{deviation:g} for the number of clipped updates of {clients} clients: choose it below "
                f"{2 * deviation:g}, or privacy.clipped_count_stddev above {self.noise_multiplier / 2:g}."
            )
        return super().impossible(clients)

    def wrapped(self, strategy: Strategy, clients: int) -> "Wrapper":
        return _Adaptive(
            strategy,
            self.noise_multiplier,
            clients,
            self.clipping_norm,
            self.target_clipped_quantile,
            self.clip_norm_lr,
            self.clipped_count_stddev,
        )

    def finish(self, wrapper: "Wrapper") -> None:
        self.clipping_norm = wrapper.clipping_norm

    def state(self) -> RecordDict:
        return RecordDict({RECORD: ConfigRecord({NORM: self.clipping_norm})})

    def load_state(self, state: RecordDict) -> None:
        self.clipping_norm = float(str(state.config_records[RECORD][NORM]))


class _Adaptive(flower.DifferentialPrivacyServerSideAdaptiveClipping):
    """Corrects two lines of Flower 1.41.

    It counts the updates that were clipped where the paper counts those that were not, so that its norm moves away from
    the quantile, to zero or to infinity; and it moves the norm before the noise is drawn, which then does not fit the
    norm that updates were clipped at.
    """

    def _geometric_update(self, clipped_fraction: float) -> None:
        change = self.clip_norm_lr * (clipped_fraction - self.target_clipped_quantile)
        self._next = self.clipping_norm * math.exp(change)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        result = super().aggregate_train(server_round, replies)
        self.clipping_norm = self._next
        return result


Wrapper = flower.DifferentialPrivacyServerSideFixedClipping | flower.DifferentialPrivacyServerSideAdaptiveClipping


class _Updates(Collected):
    """The replies of a round, for one of Flower's wrappers."""

    def __init__(
        self,
        clipping: Clipping,
        server_round: int,
        sent: Mapping[str, torch.Tensor],
        aggregate: Aggregate,
        norms: list[float],
    ) -> None:
        super().__init__(server_round, self.wrapper, double=True)
        self.clipping = clipping
        self.aggregate = aggregate
        self.sent = {name: self.vector(tensor) for name, tensor in sent.items() if tensor.is_floating_point()}
        self.norms = norms
        self.flower: Wrapper | None = None

    def message(self, floats: Mapping[str, torch.Tensor], weight: float) -> Message:
        if floats.keys() != self.sent.keys():
            raise ValueError(f"the entries {sorted(floats.keys() ^ self.sent.keys())} are not in what was sent")
        moved = [
            (floats[name] - sent.to(floats[name].device)).square().sum().item() for name, sent in self.sent.items()
        ]
        norm = math.sqrt(math.fsum(moved))
        self.norms.append(norm)
        # Flower would divide by the norm of an update that is none: such a reply goes without arrays.
        return super().message({name: floats[name] for name in self.sent} if norm > 0 else {}, weight)

    def wrapper(self, clients: int) -> Strategy:
        reason = self.clipping.impossible(clients)
        if reason is not None:
            raise RoundFailed(f"in round {self.server_round} so few clients were left that {reason}")
        wrapper = self.clipping.wrapped(_Inner(self.aggregate, self.sent), clients)
        wrapper.current_arrays = to_record(self.sent)
        self.flower = wrapper
        return wrapper

    def result(self) -> dict[str, torch.Tensor]:
        with global_numpy_seed(self.clipping.seed, "privacy", round=self.server_round):
            result = super().result()
        if self.flower is not None:
            self.clipping.finish(self.flower)
        return result


class _Inner(Strategy):
    """What Flower's wrapper stands around: the aggregation of clipped replies, as a strategy."""

    def __init__(self, aggregate: Aggregate, sent: Mapping[str, torch.Tensor]) -> None:
        self.aggregate = aggregate
        self.sent = sent

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        for reply in replies:
            tensors = to_tensors(arrays_of(reply)) or self.sent
            self.aggregate.add(tensors, number(metrics_of(reply), NUM_EXAMPLES))
        return to_record(self.aggregate.result()), None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return ()

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return ()

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        return None

    def summary(self) -> None:
        """Nothing to say."""
