"""Every strategy with an aggregation that is no mean: it is used, and what the strategy promises still holds."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch
from flwr.app import Message
from safetensors.torch import load_file

from fedsim.client.app_factory import ClientAppFactory
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_tensors
from fedsim.messages.schema import TRAIN, arrays_of
from fedsim.methods.sparse.masks import kept
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from strategies import FedTiny, Pruned
from tests.methods import some_by_day

MakeSettings = Callable[..., Settings]
SPARSE = ("strategy.density=0.05",)
STRATEGIES: dict[str, tuple[str, ...]] = {
    "fedavg": (),
    "fedprox": (),
    "fedbn": (),
    "fedwon": (),
    "fedper": (),
    "fedrep": ("strategy.head_epochs=1",),
    "fedloge": ("head.steps=20",),
    "fedtiny": (*SPARSE, "strategy.candidates=2", "strategy.blocks=2", "strategy.interval=1", "strategy.stop_round=4"),
    "pruned": SPARSE,
    "prunefl": (*SPARSE, "strategy.interval=1"),
    "scaffold": (),
    "fraug": ("strategy.latent=8",),
    "local": (),
    "ditto": (),
    "apfl": (),
    "creff": ("strategy.match_steps=3", "strategy.retrain_epochs=2"),
    "fedetf": (),
    "fedrod": (),
    "fedsr": (),
    "fedsam": (),
    "moon": (),
    "fbn": (),
    "hbn": (),
    "fedtan": (),
}
MEAN_ONLY = {"feddst", "lotteryfl", "central", "fedproto", "fdse"}
"""Those that refuse any other aggregation, as their own tests have it"""
POOLED = {"fbn", "hbn"}
"""Those whose statistics are pooled, whatever the aggregation of the parameters is"""
SERVER_OPTIMIZERS: dict[str, tuple[str, ...]] = {
    "fedadam": ("strategy.beta_1=0", "strategy.beta_2=0"),
    "fedavgm": ("strategy.server_momentum=0", "strategy.server_lr=0.5"),
}
"""Those that step from the model that was sent towards what the aggregation makes"""
STEPS_OF_THEIR_OWN = {"fedadagrad", "fedyogi", "fednova", "feddyn"}
"""Those whose steps from there have formulas that their own tests have"""


class Watched(InlineGrid):
    """Keeps the replies of the last round of training."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        messages = list(messages)
        if messages[0].metadata.message_type == TRAIN:
            self.replies: list[dict[str, torch.Tensor]] = []
        for message, reply in zip(messages, super().send_and_receive(messages), strict=True):
            if message.metadata.message_type == TRAIN:
                self.replies.append(to_tensors(arrays_of(reply)))
            yield reply


def test_every_strategy_is_tried_here() -> None:
    folder = Path(__file__).parents[3] / "configs" / "strategy"
    tried = STRATEGIES.keys() | MEAN_ONLY | SERVER_OPTIMIZERS.keys() | STEPS_OF_THEIR_OWN
    assert {path.stem for path in folder.glob("*.yaml")} == tried


@pytest.mark.parametrize("strategy", some_by_day(STRATEGIES))
def test_two_rounds_end_in_the_median_of_the_replies(
    strategy: str, small_settings: MakeSettings, tmp_path: Path
) -> None:
    settings = small_settings("engine=inline", f"strategy={strategy}", *STRATEGIES[strategy], "aggregation=median")
    prepared = prepare(settings)
    grid = Watched(ClientAppFactory(settings, prepared.federation), 6, prepared.devices)
    result = run(prepared, tmp_path / "run", Reporter(), grid)
    assert result.rounds["round"].tolist() == [0, 1, 2]
    final = load_file(tmp_path / "run" / "model.safetensors")
    personal = prepared.strategy.personal
    masks = prepared.strategy.masks if isinstance(prepared.strategy, Pruned) else {}
    layers = {f"{layer}.weight": mask for layer, mask in masks.items()}

    assert len(grid.replies) == 6
    for name in grid.replies[0]:
        assert name not in personal
        if strategy in POOLED and name not in prepared.strategy.parameters:
            continue
        values = torch.stack([reply[name] for reply in grid.replies])
        if not values.is_floating_point():
            assert torch.equal(final[name], values.max(dim=0).values), name
        elif name not in layers:
            assert torch.equal(final[name], (values.sort(dim=0).values[2:4].double().sum(dim=0) / 2).float()), name
    if strategy == "pruned":  # the masks stay, so that what travelled are the values in their order
        for name, mask in layers.items():
            values = torch.stack([reply[name] for reply in grid.replies]).double().sort(dim=0).values[2:4]
            assert torch.equal(final[name][mask], values.mean(dim=0).float())
    if masks:
        assert sum(kept(dict(masks)).values()) == round(0.05 * sum(mask.numel() for mask in masks.values()))
        assert not any(final[name][~mask].any() for name, mask in layers.items())
    if isinstance(prepared.strategy, FedTiny):
        assert kept(dict(masks)) in prepared.strategy.candidates  # each layer keeps its density
    states = grid.client_states()
    if personal:
        parts = [load_file(tmp_path / "run" / "clients" / f"{client}.safetensors") for client in states]
        assert all(part.keys() == set(personal) for part in parts)
        trained = [name for name in personal if parts[0][name].is_floating_point() and parts[0][name].numel() > 4]
        assert any(not torch.equal(parts[0][name], parts[1][name]) for name in trained)


@pytest.mark.parametrize("strategy", SERVER_OPTIMIZERS)
def test_a_server_optimizer_steps_towards_the_median(
    strategy: str, small_settings: MakeSettings, tmp_path: Path
) -> None:
    """Without momentum, in the first round: half of the way, or Adam's step of one length for all."""
    settings = small_settings(
        *("engine=inline", f"strategy={strategy}", *SERVER_OPTIMIZERS[strategy], "aggregation=median", "rounds=1")
    )
    prepared = prepare(settings)
    before = {name: tensor.clone() for name, tensor in prepared.model.state_dict().items()}
    grid = Watched(ClientAppFactory(settings, prepared.federation), 6, prepared.devices)
    run(prepared, tmp_path / "run", Reporter(), grid)
    final = load_file(tmp_path / "run" / "model.safetensors")
    parameters = dict(prepared.model.named_parameters())
    for name, start in before.items():
        values = torch.stack([reply[name] for reply in grid.replies])
        if not values.is_floating_point():
            assert torch.equal(final[name], values.max(dim=0).values), name
            continue
        median = (values.sort(dim=0).values[2:4].double().sum(dim=0) / 2).float()
        change = median - start
        if name not in parameters:
            expected = median
        elif strategy == "fedavgm":
            expected = start + 0.5 * change
        else:
            expected = start + 0.01 * change / (change.abs() + 0.001)
        torch.testing.assert_close(final[name], expected, rtol=1e-5, atol=1e-6)


def test_a_cohort_that_is_too_small_is_refused_before_anything_starts(small_settings: MakeSettings) -> None:
    prepare(small_settings("aggregation=krum", "fraction=0.75"))  # five of six
    with pytest.raises(UserError, match=r"^aggregation\.malicious=1 needs at least 5 clients .* there are 4: choose"):
        prepare(small_settings("aggregation=krum", "fraction=0.7"))


def test_a_strategy_that_takes_no_aggregation_is_refused(small_settings: MakeSettings) -> None:
    settings = small_settings("aggregation=median", "strategy.server=tests.fedsim.aggregation.test_strategies.Own")
    with pytest.raises(UserError, match=r"^strategy=fedavg averages in a way of its own: choose aggregation=mean"):
        prepare(settings)


class Own:
    """Somebody's strategy, which knows nothing of aggregations."""

    def __init__(self, model: object, training: object) -> None: ...
